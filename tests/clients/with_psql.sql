\set VERBOSITY verbose
\set ECHO queries
\pset pager off
create table people (id int primary key, name text, ssn text, score numeric, born date, face bytea, tags text[]);
insert into people values (1, 'Ada', '078-05-1120', 1.5, '1815-12-10', 'x', '{a,b}'), (2, U&'\00C9dith', null, -2, null, '\x00ff', null), (3, '', null, 'NaN', 'infinity', null, '{}');
create view names as select id, upper(name) as name from people;
create function tell(text) returns int language plpgsql as 'begin raise notice ''told %'', $1 using hint = ''h'', detail = ''d''; return 1; end';
select * from people order by id;
\d people
\d+ names
\df+ tell
\du
\l
\dn+
\dt
\sf tell
\sv names
\dp people
\dT text
\dC integer
\dRp
\dx
select tell('x');
select 1 \; select 'two' as "Two" \; create temp table t (a int) \; insert into t values (1), (2), (3);
;
select null, '', 'a''b', $$dollar 1$$, 1e-5 /* a 1 */ -- b 1
;
select 1 +;
select nothing from people;
select * from nowhere;
select ssn::int from people;
insert into people values (1, 'twice');
select 1/0;
begin;
select 1/0;
select 1;
savepoint x;
rollback;
begin;
insert into t values (4);
savepoint s;
insert into t values (5), (1/0);
rollback to s;
commit;
select sum(a) from t;
with gone as (delete from t where a = 1 returning a) select count(*) from gone;
prepare p (int) as select $1 + 1;
execute p (41);
execute nothing;
deallocate p;
begin;
declare c scroll cursor for select g from generate_series(1, 9) g;
fetch 3 from c;
move last from c;
fetch backward 2 from c;
close c;
end;
\set FETCH_COUNT 2
select id, name from people order by id;
\unset FETCH_COUNT
select 1 as a, 'x' as b \gdesc
select 'select 1 as one', 'select 2 as two' \gexec
select 'v' as var \gset
\echo :var
copy people (id, name) from stdin;
4	four
5	\N
\.
copy people (id) from stdin;
not a number
\.
copy people (id, name) from stdin (format csv, header);
id,name
6,"six, ""and"""
\.
copy people to stdout;
copy people to stdout (format csv, header, force_quote *);
copy (select 1 / (3 - g) from generate_series(1, 5) g) to stdout;
copy people to program 'cat > /dev/null';
\copy (select id from people order by id) to pstdout
copy t from stdin \; select 'after copy' \; copy t to stdout \; select 'and more';
7
8
\.
explain (costs off) select * from people where id = 1;
explain (analyze, costs off, timing off, summary off) select * from people where id = 1;
listen news;
notify news, 'payload';
set client_encoding = 'LATIN1';
select name from people where id = 2;
reset client_encoding;
set datestyle = 'SQL, DMY';
select born from people where id = 1;
show search_path;
set statement_timeout = '100ms';
select pg_sleep(5);
reset statement_timeout;
do $$ begin raise warning 'w'; raise exception 'e' using errcode = '22012', hint = 'h'; end $$;
\lo_import /etc/hostname
\set lo :LASTOID
\set ECHO none
select length(lo_get(:lo)) > 0;
\lo_export :lo /dev/null
\lo_unlink :lo
\set ECHO queries
select lo_create(4242), lo_put(4242, 0, repeat('large ', 10000)::bytea);
select md5(lo_get(4242));
\lo_list
create database other;
\c other
select current_database();
\c work
drop database other;
select repeat('x', 100000) = repeat('x', 100000), length(repeat('y', 10000000));
select repeat('z', 200000);
vacuum people;
reindex table people;
\conninfo
select pg_terminate_backend(pg_backend_pid());
