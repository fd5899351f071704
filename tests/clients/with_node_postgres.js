// node-postgres at work: everything that it prints is the same with and without something in between.
const { Client, Pool, Query } = require("pg");

const show = (...what) => console.log(...what.map((one) => (typeof one === "string" ? one : JSON.stringify(one))));

// COPY, for which node-postgres has the messages and no words.
class Copy {
  constructor(text, parts) {
    Object.assign(this, { text, parts, data: [], done: new Promise((yes, no) => Object.assign(this, { yes, no })) });
  }
  submit(connection) { connection.query(this.text); }
  handleCopyInResponse(connection) {
    for (const part of this.parts) connection.sendCopyFromChunk(Buffer.from(part));
    connection.endCopyFrom();
  }
  handleCopyData(message) { this.data.push(message.chunk); }
  handleCommandComplete(message) { this.tag = message.text; }
  handleReadyForQuery() { this.failed ? this.no(this.failed) : this.yes([this.tag, Buffer.concat(this.data).toString("hex")]); }
  handleError(error) { this.failed = error; this.no(error); }
}

async function fails(what) {
  try { await what; show("no error"); } catch (error) { show("error", error.code ?? error.message, error.detail ?? null, error.severity ?? null); }
}

async function main() {
  const client = new Client();
  client.on("notice", (notice) => show("notice", notice.severity, notice.code, notice.message));
  await client.connect();
  const copy = (text, parts) => { const one = new Copy(text, parts ?? []); client.query(one); return one.done; };

  show((await client.query("select $1::int a, $2::text b, $3::bytea c, $4::jsonb d, $5::int[] e, $6::timestamptz f, $7::numeric g, $8::bool h, null i, $9::uuid j, $10::int8 k",
    [7, "häß漢\u{1f600}", Buffer.from([0, 1, 255]), { a: [1, null] }, [1, null, 3], new Date(0), "12345678901234567890.5", true, "00000000-0000-0000-0000-00000000004d", "9007199254740993"])).rows);
  show((await client.query({ text: "select 1 one, 'x' two, null three", rowMode: "array" })).rows);
  await client.query("create table t (id int primary key, name text, tags text[])");
  for (let n = 0; n < 50; n++) await client.query({ name: "put", text: "insert into t values ($1, $2, $3)", values: [n, n % 5 ? "n" + n : null, ["a", String(n)]] });
  show((await client.query({ name: "get", text: "select * from t where id = any($1) order by id", values: [[1, 2, 5]] })).rows);
  const all = await client.query("select 1 a; insert into t values (60); select count(*) from t");
  show(all.map((one) => [one.command, one.rowCount, one.rows]));
  show((await client.query("")).rows, (await client.query("-- nothing")).rowCount);

  // A portal with a limit: seven rows at a time.
  const portal = new Query({ text: "select id from t where id < $1 order by id", values: [30], rows: 7 });
  const seen = [];
  await new Promise((yes, no) => { portal.on("row", (row) => seen.push(row.id)); portal.on("end", yes); portal.on("error", no); client.query(portal); });
  show("portal", seen);

  show(await copy("copy t (id, name) from stdin", ["100\tone\n", "101\t\\N\n1", "02\tsplit\n"]));
  show(await copy("copy (select id, name from t where id > 40 order by id) to stdout"));
  show(await copy("copy (select id, name from t where id > 99 order by id) to stdout (format binary)"));
  await fails(copy("copy t (id) from stdin", ["not a number\n"]));

  await client.query("begin");
  await client.query("savepoint s");
  await fails(client.query("insert into t values ($1)", [1]));
  await fails(client.query("select 1"));
  await client.query("rollback to s");
  show((await client.query("select count(*) from t")).rows);
  await client.query("rollback");
  for (const text of ["select 1 +", "select nothing", "select * from nowhere", "select 1/0", "select 'x'::int"]) await fails(client.query(text));
  await fails(client.query("select $1::int", ["x"]));
  await fails(client.query("select $1::int + $2::int", [1]));

  await client.query("do $$ begin raise notice 'n'; raise warning 'w'; end $$");
  const told = new Promise((yes) => client.once("notification", (note) => yes([note.channel, note.payload])));
  await client.query("listen news");
  await client.query("select pg_notify('news', $1)", ["payload"]);
  show("notification", await told);

  const big = "z".repeat(3 << 20);
  show("large", (await client.query("select $1::text || $1::text as both", [big])).rows[0].both === big + big);
  // Sent without waiting for answers.
  show((await Promise.all([...Array(200).keys()].map((n) => client.query("select $1::int * 2 as n", [n])))).reduce((sum, one) => sum + one.rows[0].n, 0));

  const pool = new Pool({ max: 4 });
  show("pool", (await Promise.all([...Array(40).keys()].map((n) => pool.query("select $1::int as n", [n])))).map((one) => one.rows[0].n));
  const other = new Client();
  await other.connect();
  const cancelled = fails(other.query("select pg_sleep(30)"));
  await new Promise((yes) => setTimeout(yes, 300));
  new Client().cancel(other, other.activeQuery ?? other._activeQuery);
  await cancelled;
  show((await other.query("select 'usable' as x")).rows);
  other.on("error", () => {});
  await fails(other.query("select pg_terminate_backend(pg_backend_pid())"));
  await pool.end();
  await client.end();
}
main().catch((error) => { console.error(error.stack); process.exit(1); });
