// Reads a call per line from stdin, and writes its result to stdout.

import { createInterface } from 'node:readline'
import * as library from '@supabase/supabase-js'
import { invoke } from './invoke.mjs'

for await (const line of createInterface({ input: process.stdin })) {
  const result = await invoke(library, JSON.parse(line)).catch((error) => ({ error: String(error) }))
  console.log(JSON.stringify(result))
}
