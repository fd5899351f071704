-- Rails 7, Active Record.
SET client_min_messages TO 'warning'
SET standard_conforming_strings = on
SET SESSION timezone TO 'UTC'
SHOW max_identifier_length
SHOW search_path
SELECT t.oid, t.typname FROM pg_type as t WHERE t.typname IN ('int2', 'int4', 'int8', 'oid', 'float4', 'float8', 'numeric', 'bool', 'timestamp', 'timestamptz')
SELECT t.oid, t.typname, t.typelem, t.typdelim, t.typinput, r.rngsubtype, t.typtype, t.typbasetype FROM pg_type as t LEFT JOIN pg_range as r ON oid = rngtypid WHERE t.typname IN ('int2', 'int4') OR t.typtype IN ('r', 'e', 'd') OR t.typinput = 'array_in(cstring,oid,integer)'::regprocedure OR t.typelem != 0
SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, a.atttypid, a.atttypmod, c.collname, col_description(a.attrelid, a.attnum) AS comment, attidentity AS identity, attgenerated as attgenerated FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum LEFT JOIN pg_type t ON a.atttypid = t.oid LEFT JOIN pg_collation c ON a.attcollation = c.oid AND a.attcollation <> t.typcollation WHERE a.attrelid = '"posts"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
SELECT a.attname FROM (SELECT indrelid, indkey, generate_subscripts(indkey, 1) idx FROM pg_index WHERE indrelid = '"posts"'::regclass AND indisprimary) i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[i.idx] ORDER BY i.idx
SELECT c.relname FROM pg_class c LEFT JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (current_schemas(false)) AND c.relname = 'schema_migrations' AND c.relkind IN ('r','v','m','p','f')
SELECT distinct i.relname, d.indisunique, d.indkey, pg_get_indexdef(d.indexrelid), pg_catalog.obj_description(i.oid, 'pg_class') AS comment, d.indisvalid, ARRAY(SELECT pg_get_indexdef(d.indexrelid, k + 1, true) FROM generate_subscripts(d.indkey, 1) AS k ORDER BY k) AS columns FROM pg_class t INNER JOIN pg_index d ON t.oid = d.indrelid INNER JOIN pg_class i ON d.indexrelid = i.oid LEFT JOIN pg_namespace n ON n.oid = t.relnamespace WHERE i.relkind IN ('i', 'I') AND d.indisprimary = 'f' AND t.relname = 'posts' AND n.nspname = ANY (current_schemas(false)) ORDER BY i.relname
SELECT "posts".* FROM "posts" WHERE "posts"."title" ILIKE '%x%' AND "posts"."id" BETWEEN 1 AND 5 ORDER BY "posts"."id" ASC LIMIT $1 OFFSET $2
SELECT "posts"."id" AS t0_r0, "comments"."id" AS t1_r0 FROM "posts" LEFT OUTER JOIN "comments" ON "comments"."post_id" = "posts"."id" WHERE "comments"."body" IS NOT NULL
SELECT 1 AS one FROM "posts" WHERE "posts"."slug" = $1 LIMIT $2
SELECT DISTINCT ON (author_id) "posts".*, ROW_NUMBER() OVER (PARTITION BY author_id ORDER BY created_at DESC) AS position FROM "posts"
INSERT INTO "posts" ("title","created_at") VALUES ($1, CURRENT_TIMESTAMP) ON CONFLICT DO NOTHING RETURNING "id"
INSERT INTO "posts" ("title") VALUES ('a') ON CONFLICT ("title") DO UPDATE SET updated_at=(CASE WHEN ("posts"."title" IS NOT DISTINCT FROM excluded."title") THEN "posts".updated_at ELSE CURRENT_TIMESTAMP END),"title"=excluded."title" RETURNING "id"
UPDATE "posts" SET "comments_count" = COALESCE("posts"."comments_count", 0) + $1 WHERE "posts"."id" = $2
DELETE FROM "posts" WHERE "posts"."id" = $1
SELECT pg_try_advisory_lock(1234567890)
SELECT pg_advisory_unlock(1234567890)
CREATE TABLE "schema_migrations" ("version" character varying NOT NULL PRIMARY KEY)
CREATE TABLE "posts" ("id" bigserial primary key, "title" character varying, "meta" jsonb DEFAULT '{}', "uuid" uuid DEFAULT gen_random_uuid() NOT NULL, "created_at" timestamp(6) NOT NULL)
ALTER TABLE "comments" ADD CONSTRAINT "fk_rails_1" FOREIGN KEY ("post_id") REFERENCES "posts" ("id") ON DELETE cascade
CREATE EXTENSION IF NOT EXISTS "pgcrypto" SCHEMA public CASCADE
CREATE UNIQUE INDEX "index_posts_on_title" ON "posts" (lower(title)) WHERE (title IS NOT NULL)
SELECT extname FROM pg_extension
SELECT setval('"posts_id_seq"', (SELECT GREATEST(MAX("id")+1, 1) FROM "posts"), false)
DISCARD ALL
