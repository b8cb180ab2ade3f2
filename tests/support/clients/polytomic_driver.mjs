// The vendor's client from npm, unmodified. Reads a call per line from stdin, and writes its result to stdout.

import { createInterface } from 'node:readline'
import { PolytomicClient } from 'polytomic'

const clients = new Map()

function client(options) {
  const key = JSON.stringify(options)
  if (!clients.has(key)) clients.set(key, new PolytomicClient(options))
  return clients.get(key)
}

async function respond({ options, call: { method, positional, named } }) {
  const path = method.replace(/_(\w)/g, (_, letter) => letter.toUpperCase()).split('.')
  const name = path.pop()
  const owner = path.reduce((found, part) => found[part], client(options))
  const request = Object.keys(named).length ? [named] : []
  try {
    return { result: (await owner[name](...positional, ...request)) ?? null }
  } catch (error) {
    return { error: error.constructor.name, status: error.statusCode ?? null, body: error.body ?? String(error) }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await respond(JSON.parse(line))))
}
