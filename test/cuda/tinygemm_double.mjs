#!/usr/bin/env node
// Stands in for a Python with torch: speaks the lines of bench/gpu/tinygemm.py. Shapes of 13 rows fail.
import { createInterface } from 'node:readline'

const answer = (fields) => console.log(JSON.stringify(fields))
if (process.argv[2].endsWith('tinygemm.py')) answer({ description: 'a double' })
else answer({ failure: `a script ${process.argv[2]}` })
for await (const line of createInterface({ input: process.stdin })) {
  const { command, rows, cols, tokens, groupSize } = JSON.parse(line)
  if (command === 'make' && rows === 13) answer({ failure: 'thirteen rows' })
  else if (command === 'make') answer({ error: tokens / 1000, bytes: rows * cols + groupSize })
  else answer({ seconds: 0.25 })
}
