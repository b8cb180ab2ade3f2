// A call per line of stdin, its answer as a line of stdout.

import { createInterface } from 'node:readline'
import * as library from '@supabase/supabase-js'
import { invoke } from './invoke.mjs'

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await invoke(library, JSON.parse(line)).catch((error) => ({ error: String(error) }))
  console.log(JSON.stringify(answer))
}
