-- pgjdbc's metadata, Hibernate 6, Flyway and Liquibase, HikariCP.
SELECT TRUE AS known
SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, CASE n.nspname ~ '^pg_' OR n.nspname = 'information_schema' WHEN true THEN CASE WHEN n.nspname = 'pg_catalog' OR n.nspname = 'information_schema' THEN CASE c.relkind WHEN 'r' THEN 'SYSTEM TABLE' WHEN 'v' THEN 'SYSTEM VIEW' ELSE NULL END END WHEN false THEN CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'PARTITIONED TABLE' ELSE NULL END ELSE NULL END AS TABLE_TYPE, d.description AS REMARKS FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass) WHERE c.relnamespace = n.oid AND c.relname LIKE 'a' AND (false OR (c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')) ORDER BY TABLE_TYPE, TABLE_SCHEM, TABLE_NAME
SELECT * FROM (SELECT current_database() AS current_database, n.nspname, c.relname, a.attname, a.atttypid, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull, a.atttypmod, a.attlen, t.typtypmod, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity, nullif(a.attgenerated, '') as attgenerated, pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description, t.typbasetype, t.typtype FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid) JOIN pg_catalog.pg_attribute a ON (a.attrelid = c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid = def.adrelid AND a.attnum = def.adnum) LEFT JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid) WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped AND c.relname LIKE 'a') c WHERE true ORDER BY nspname, c.relname, attnum
SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS COLUMN_NAME, (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME, information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) JOIN pg_catalog.pg_index i ON (a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) WHERE true AND i.indisprimary
SELECT typinput='pg_catalog.array_in'::regproc as is_array, typtype, typname, pg_type.oid FROM pg_catalog.pg_type LEFT JOIN (select ns.oid as nspoid, ns.nspname, r.r from pg_namespace as ns join (select s.r, (current_schemas(false))[s.r] as nspname from generate_series(1, array_upper(current_schemas(false), 1)) as s(r)) as r using (nspname)) as sp ON sp.nspoid = typnamespace WHERE typname = $1 ORDER BY sp.r, pg_type.oid DESC
SELECT n.nspname = ANY(current_schemas(true)), n.nspname, t.typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = $1
SET extra_float_digits = 3
SET application_name = 'PostgreSQL JDBC Driver'
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED
SHOW TRANSACTION ISOLATION LEVEL
SELECT current_schema()
BEGIN READ ONLY
select next_val as id_val from hibernate_sequences where sequence_name=$1 for update
select nextval('person_seq')
select p1_0.id,p1_0.name,a1_0.person_id,a1_0.street from person p1_0 left join address a1_0 on p1_0.id=a1_0.person_id where p1_0.id=$1 fetch first $2 rows only
select count(p1_0.id) from person p1_0 where lower(p1_0.name) like lower($1) escape '' and p1_0.born between $2 and $3
select p1_0.id from person p1_0 where p1_0.version=$1 order by p1_0.name offset $2 rows fetch first $3 rows only for no key update of p1_0
with recursive tree (id, parent, depth) as (select n.id, n.parent, 0 from node n where n.parent is null union all select n.id, n.parent, t.depth + 1 from node n join tree t on t.id = n.parent) select t.id from tree t
insert into person (born,name,version,id) values ($1,$2,$3,$4)
update person set born=$1,name=$2,version=$3 where id=$4 and version=$5
merge into person as t using (select $1::bigint as id, $2::varchar as name) as s on t.id=s.id when not matched then insert (id, name) values (s.id, s.name) when matched then update set name=s.name
delete from person where id=$1 and version=$2
create sequence person_seq start with 1 increment by 50
create table person (id bigint not null, born timestamp(6) with time zone, name varchar(255), score numeric(38,2), kind smallint check (kind between 0 and 3), primary key (id))
alter table if exists address add constraint FK1 foreign key (person_id) references person
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relname = 'flyway_schema_history' AND c.relkind = 'r')
CREATE TABLE "public"."flyway_schema_history" ("installed_rank" INT NOT NULL, "version" VARCHAR(50), "checksum" INTEGER, "installed_on" TIMESTAMP NOT NULL DEFAULT now(), "success" BOOLEAN NOT NULL) WITH (OIDS=FALSE)
INSERT INTO "public"."flyway_schema_history" ("installed_rank", "version", "success") VALUES ($1, $2, $3)
SELECT pg_try_advisory_lock(77431708279161)
SELECT COUNT(*) FROM public.databasechangeloglock
UPDATE public.databasechangeloglock SET LOCKED = TRUE, LOCKEDBY = 'host (10.0.0.1)', LOCKGRANTED = NOW() WHERE ID = 1 AND LOCKED = FALSE
