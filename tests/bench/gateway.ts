// The gateway of the measured project: Auth and PostgREST behind one address, as Supabase's. The same for every contender.

const routes: [string, string][] = Object.entries(JSON.parse(Deno.env.get('ROUTES')!))

Deno.serve({ hostname: '127.0.0.1', port: Number(Deno.env.get('PORT')) }, (request) => {
  const { pathname, search } = new URL(request.url)
  for (const [prefix, target] of routes) {
    if (pathname.startsWith(prefix)) {
      return fetch(new Request(target + pathname.slice(prefix.length) + search, request), { redirect: 'manual' })
    }
  }
  return new Response(null, { status: 404 })
})
