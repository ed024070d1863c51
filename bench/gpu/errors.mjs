// Imported first: an error is told in its own words, with what to do, and without a stack.
process.on('uncaughtException', ({ code, message, remedy }) => {
  console.error([code && `${code}:`, message, remedy && `(${remedy})`].filter(Boolean).join(' '))
  process.exit(1)
})
