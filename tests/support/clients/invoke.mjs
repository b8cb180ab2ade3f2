// One call of functions.invoke, in Node or in a page, and all that a script can read of its result.

const ERRORS = ['FunctionsHttpError', 'FunctionsRelayError', 'FunctionsFetchError']

const BODIES = {
  object: (body) => body,
  string: (body) => (typeof body === 'string' ? body : JSON.stringify(body)),
  blob: (body) => new Blob([JSON.stringify(body)], { type: 'application/json' }),
  buffer: (body) => new TextEncoder().encode(JSON.stringify(body)).buffer,
  form: (body) => Object.entries(body).reduce((form, [name, value]) => (form.append(name, value), form), new FormData()),
}

/** `library` is supabase-js, the rest a `Call` of clients/__init__.py; the result is a `CallResult`. */
export async function invoke(
  library,
  { url, key, token, token_as, function: name, options, body, body_as, abort, functions_at },
) {
  const elsewhere = (input, init) => fetch(String(input).replace(`${url}/functions/v1`, functions_at), init)
  const supabase = library.createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    ...(token && token_as === 'accessToken' && { accessToken: async () => token }),
    global: {
      ...(token && token_as === 'headers' && { headers: { Authorization: `Bearer ${token}` } }),
      ...(functions_at && { fetch: elsewhere }),
    },
  })
  if (token && token_as === 'session') {
    const { error } = await supabase.auth.setSession({ access_token: token, refresh_token: 'none' })
    if (error) throw error
  }
  if (name === null) {
    const { data, status } = await supabase.from('historical_sync_jobs').select()
    return { data, status }
  }
  const { data, error, response } = await supabase.functions.invoke(name, {
    ...options,
    ...(body !== null && { body: BODIES[body_as](body) }),
    ...(abort && { signal: AbortSignal.abort() }),
  })
  return {
    error: error && (ERRORS.find((known) => error instanceof library[known]) ?? String(error)),
    cause: error?.context instanceof Error || error?.context instanceof DOMException ? error.context.name : null,
    data,
    status: response?.status ?? null,
    headers: Object.fromEntries(response?.headers ?? []),
    body: error instanceof library.FunctionsHttpError ? await error.context.json() : null,
  }
}
