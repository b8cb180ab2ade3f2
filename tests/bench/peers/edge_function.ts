// The cancel of a historical sync as one usually writes an edge function: user, two selects, RPC.
import { createClient } from "@supabase/supabase-js";

const corsHeaders = {
  "Access-Control-Allow-Origin": "*",
  "Access-Control-Allow-Headers": "authorization, x-client-info, apikey, content-type",
};

function json(status: number, body: unknown): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: { ...corsHeaders, "Content-Type": "application/json" },
  });
}

Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")) }, async (request) => {
  if (request.method === "OPTIONS") return new Response("ok", { headers: corsHeaders });
  if (request.method !== "POST") return json(405, { error: "Method not allowed" });
  try {
    const authorization = request.headers.get("Authorization");
    if (!authorization) return json(401, { error: "Missing Authorization header" });
    const supabase = createClient(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_ANON_KEY")!, {
      global: { headers: { Authorization: authorization } },
      auth: { persistSession: false, autoRefreshToken: false },
    });
    const { data: { user }, error: userError } = await supabase.auth.getUser(authorization.replace("Bearer ", ""));
    if (userError || !user) return json(401, { error: "Invalid token" });

    const { job_id } = await request.json();
    if (!job_id) return json(400, { error: "job_id is required" });

    const { data: member } = await supabase.from("users").select("agency_id").eq("id", user.id).maybeSingle();
    if (!member?.agency_id) return json(403, { error: "User is not associated with an agency" });

    const { data: job } = await supabase.from("historical_sync_jobs").select("job_id, agency_id, status")
      .eq("job_id", job_id).maybeSingle();
    if (!job) return json(404, { error: "Job not found" });
    if (job.agency_id !== member.agency_id) return json(403, { error: "Job belongs to a different agency" });
    if (!["pending", "in_progress"].includes(job.status)) {
      return json(400, { error: "Job cannot be cancelled", current_status: job.status });
    }

    const { error } = await supabase.rpc("cancel_sync_job", { job_id });
    if (error) throw error;
    return json(200, { job_id, status: "cancelled" });
  } catch (error) {
    console.error(error);
    return json(500, { error: "Internal server error" });
  }
});
