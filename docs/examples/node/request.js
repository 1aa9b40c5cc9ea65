// Asks for the deletion of a user's conversation groups and waits until each of them has an end.
//
//     npm install
//     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f node request.js user15 test0 test1
//
// Exits with 0 if all groups are erased, else with 1.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const APP = "billing"; // who asks: the last word of the answers' routing keys
const TIMEOUT_MS = 60_000;
const isErased = (end) => end === "deleted" || end === "gone";

// Publishes a request. The broker's confirm says that it is kept, not that it is done.
async function ask(channel, request, user, groups) {
  let returned;
  channel.once("return", (message) => { returned = message; }); // comes before the confirm
  const body = Buffer.from(JSON.stringify({ From_Account: user, GroupName: groups }));
  channel.publish("convgroup", "delete", body, {
    mandatory: true,
    persistent: true,
    contentType: "application/json",
    messageId: request,
    timestamp: Math.floor(Date.now() / 1000),
    appId: APP,
  });
  await channel.waitForConfirms(); // rejects when the broker refuses
  if (returned) throw new Error(`the request was returned: ${returned.fields.replyText}`);
}

// Takes in one outcome of the request. Returns how the request ended, or nothing while it is open.
function takeIn(ends, data) {
  console.log(`outcome: ${data.status}, ${data.remaining} remaining`);
  if (data.status === "malformed") return "malformed";
  for (const { index, outcome } of data.results) {
    if (!isErased(ends.get(index))) ends.set(index, outcome); // an answer can come twice
  }
  if (ends.size < data.groups) return undefined;
  const erased = [...ends.values()].filter(isErased).length;
  return erased === ends.size ? "erased" : erased > 0 ? "mixed" : "failed";
}

async function main(user, groups) {
  const request = randomUUID();
  const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://guest:guest@127.0.0.1:5672/%2f");
  try {
    const channel = await connection.createConfirmChannel();
    // Bound before the request is published, so that no answer is missed. A service has one durable queue that
    // outlives it instead.
    const answers = `${APP}.answers.${request}`;
    await channel.assertQueue(answers, { exclusive: true });
    await channel.bindQueue(answers, "convgroup.outcomes", `*.${APP}`);

    let close;
    const closed = new Promise((resolve) => { close = resolve; });
    const ends = new Map(); // how each group ended, by its place in GroupName
    await channel.consume(answers, (message) => {
      if (message === null) return close("open"); // the queue was deleted
      const { data } = JSON.parse(message.content.toString());
      channel.ack(message);
      if (data.request.id !== request) return; // the queue gets the app's other answers, too
      const status = takeIn(ends, data);
      if (status) close(status);
    });
    console.log(`request ${request}`);
    await ask(channel, request, user, groups);

    const timer = setTimeout(() => close("open"), TIMEOUT_MS);
    const status = await closed;
    clearTimeout(timer);
    console.log(status);
    return status === "erased" ? 0 : 1;
  } finally {
    await connection.close();
  }
}

const [user, ...groups] = process.argv.slice(2);
if (groups.length === 0) {
  console.error("usage: request.js USER GROUP...");
  process.exit(1);
}
process.exitCode = await main(user, groups);
