// The gateway of the measured project: Auth and PostgREST behind one address, as Supabase's. The same for every contender.
// It reads a body before it passes it on, as Supabase's does: a client that sends head and body apart is not delayed twice.

const routes: [string, string][] = Object.entries(JSON.parse(Deno.env.get('ROUTES')!))

Deno.serve({ hostname: '127.0.0.1', port: Number(Deno.env.get('PORT')) }, async (request) => {
  const { pathname, search } = new URL(request.url)
  for (const [prefix, target] of routes) {
    if (pathname.startsWith(prefix)) {
      const { method, headers } = request
      const body = request.body ? await request.arrayBuffer() : undefined
      return fetch(target + pathname.slice(prefix.length) + search, { method, headers, body, redirect: 'manual' })
    }
  }
  return new Response(null, { status: 404 })
})
