// The TypeScript SDK's client: lists the tools, then makes the calls it is given, and prints what it was told.
// Usage: node typescript.mjs '{"sdk": 2, "mode": "auto", "url": …, "token": …, "command": …, "says": "yes", "calls": […]}'

const wanted = JSON.parse(process.argv[2]);
const asked = [];
const answer = async (request) => {
  asked.push(request.params.message);
  return { action: "accept", content: { decision: wanted.says } };
};
const about = { name: "typescript", version: "1" };
const capabilities = wanted.says ? { elicitation: { form: {} } } : {};

async function connect() {
  if (wanted.sdk === 1) {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
    const { ElicitRequestSchema } = await import("@modelcontextprotocol/sdk/types.js");
    const client = new Client(about, { capabilities });
    if (wanted.says) client.setRequestHandler(ElicitRequestSchema, answer);
    return [client, StreamableHTTPClientTransport, StdioClientTransport];
  }
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
  const client = new Client(about, { capabilities, versionNegotiation: { mode: wanted.mode } });
  if (wanted.says) client.setRequestHandler("elicitation/create", answer);
  return [client, StreamableHTTPClientTransport, StdioClientTransport];
}

const [client, OverHttp, OverStdio] = await connect();
const headers = wanted.token ? { Authorization: `Bearer ${wanted.token}` } : {};
const transport = wanted.url
  ? new OverHttp(new URL(wanted.url), { requestInit: { headers } })
  : new OverStdio({ command: wanted.command[0], args: wanted.command.slice(1), env: process.env });
await client.connect(transport);
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const told = [];
for (const [name, args] of wanted.calls) {
  const result = await client.callTool({ name, arguments: args });
  told.push({ isError: result.isError ?? false, ...result.structuredContent });
}
await client.close();
console.log(JSON.stringify({ tools, asked, told }));
