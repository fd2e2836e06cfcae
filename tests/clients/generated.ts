// A client whose types are made of /openapi.json: credits a customer, and prints what it was told.
// Usage: GATEWAY=… TOKEN=… node generated.js CUSTOMER

import createClient from "openapi-fetch";
import type { paths } from "./gateway.js";

const customer = process.argv[2] as string;
const client = createClient<paths>({
  baseUrl: process.env.GATEWAY,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const { data, error, response } = await client.POST("/tools/postCustomersCustomerBalanceTransactions", {
  params: { header: { "Idempotency-Key": '"ticket-1"' } },
  body: { customer, amount: -500, currency: "usd", reference: "ticket-1" },
});
if (error) throw new Error(`${error.title}: ${error.detail}`);
if (!("data" in data)) throw new Error(`It waits for a person: ${data.proposal_id}`);
console.log(response.status, data.data.customer, data.data.amount);
