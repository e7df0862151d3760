// Writes the JSON schemas of zod's types to zod.json: npm install zod, then
//
//     node zod_types.mjs > zod.json
import { z } from "zod";

const Node = z.object({ value: z.number(), get children() { return z.array(Node); } });
const types = {
  string: z.string(), "string with lengths": z.string().min(2).max(5), "string that includes": z.string().includes("x").startsWith("a").endsWith("z"),
  regex: z.string().regex(/^[A-Z]{3}-\d+$/), "two regexes": z.string().regex(/^a/).regex(/b$/).max(20), trimmed: z.string().trim().toLowerCase(),
  email: z.email(), "email with length": z.email().max(254), "html5 email": z.email({ pattern: z.regexes.html5Email }), url: z.url(), httpUrl: z.httpUrl(), uuid: z.uuid(), uuidv4: z.uuidv4(), guid: z.guid(), hostname: z.hostname(), emoji: z.emoji(),
  base64: z.base64(), base64url: z.base64url(), nanoid: z.nanoid(), cuid: z.cuid(), cuid2: z.cuid2(), ulid: z.ulid(), ipv4: z.ipv4(), ipv6: z.ipv6(), cidrv4: z.cidrv4(), cidrv6: z.cidrv6(), jwt: z.jwt(), e164: z.e164(),
  date: z.iso.date(), time: z.iso.time(), datetime: z.iso.datetime(), "datetime with offset": z.iso.datetime({ offset: true }), duration: z.iso.duration(),
  number: z.number(), int: z.int(), int32: z.int32(), uint32: z.uint32(), float32: z.float32(), "number within": z.number().min(1).lt(10), positive: z.number().positive(), multiple: z.number().multipleOf(5), "multiple of a part": z.number().multipleOf(0.05).min(0).max(1),
  boolean: z.boolean(), null: z.null(), any: z.any(), unknown: z.unknown(), never: z.object({ a: z.never().optional() }), literal: z.literal("a"), literals: z.literal(["a", 1, null]), enum: z.enum(["a", "b"]),
  array: z.array(z.string()), nonempty: z.array(z.int()).nonempty().max(3), tuple: z.tuple([z.string(), z.number()]), "tuple with rest": z.tuple([z.string()], z.number()),
  object: z.object({ a: z.string(), b: z.number().optional() }), strict: z.strictObject({ a: z.string() }), loose: z.looseObject({ a: z.string() }), catchall: z.object({ a: z.string() }).catchall(z.number()),
  partial: z.object({ a: z.string(), b: z.int() }).partial(), "default": z.object({ a: z.string().default("x") }), described: z.object({ a: z.string().describe("it").meta({ id: "word", title: "A word", examples: ["x"] }) }),
  union: z.union([z.string(), z.number(), z.null()]), discriminated: z.discriminatedUnion("kind", [z.object({ kind: z.literal("a"), x: z.int() }), z.object({ kind: z.literal("b"), y: z.string() })]), xor: z.xor([z.object({ a: z.string() }), z.object({ b: z.string() })]),
  intersection: z.intersection(z.object({ a: z.string() }), z.object({ b: z.int() })), nullable: z.string().nullable(), nullish: z.object({ a: z.string().nullish() }),
  record: z.record(z.string(), z.number()), "record of enum": z.record(z.enum(["a", "b"]), z.number()), "partial record": z.partialRecord(z.enum(["a", "b"]), z.number()), "record of regex": z.record(z.string().regex(/^x_/), z.boolean()), "record of email": z.record(z.email(), z.int()),
  recursive: Node, readonly: z.array(z.string()).readonly(), lazy: z.lazy(() => z.array(z.string())), json: z.json(), template: z.templateLiteral(["v", z.int(), ".", z.enum(["a", "b"])]), stringbool: z.object({ on: z.boolean().catch(false) }),
};
const out = {};
for (const [name, t] of Object.entries(types)) {
  for (const target of ["draft-2020-12", "draft-7", "openapi-3.0"]) {
    try { out[name + ", " + target] = z.toJSONSchema(t, { target }); } catch (e) { console.error(name, target, e.message); }
  }
}
console.log("{\n" + Object.entries(out).map(([k, v]) => JSON.stringify(k) + ": " + JSON.stringify(v)).join(",\n") + "\n}");
