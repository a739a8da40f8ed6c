-- Creates a role for Pollcast in PostgreSQL that can read one schema and do nothing else. The owner of the tables runs
-- it in the database that is to be polled. It can be run again:
--
--   psql "$DATABASE_URL" -f deploy/postgres-role.sql
--   psql "$DATABASE_URL" -c '\password pollcast_reader'
--
-- Then: POLLCAST_DATABASE_URL=postgresql://pollcast_reader:…@db/shop?sslmode=verify-full&sslrootcert=ca.pem
-- and in pg_hba.conf, above the lines that admit others:
--   hostssl  all  pollcast_reader  all  scram-sha-256
--   host     all  pollcast_reader  all  reject
begin;

do $$
begin
    if not exists (select from pg_roles where rolname = 'pollcast_reader') then
        create role pollcast_reader login nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls;
    end if;
end $$;

-- The connections of all pollers (POLLCAST_POOL each, and one that listens), and some more for a rolling restart.
alter role pollcast_reader connection limit 64;

-- Pollcast sets the same in every transaction. These settings hold for anybody else who obtains the password.
alter role pollcast_reader set default_transaction_read_only = on;
alter role pollcast_reader set statement_timeout = '1min';
alter role pollcast_reader set idle_in_transaction_session_timeout = '1min';

-- By default every role may create temporary tables, and before PostgreSQL 15 also tables in `public`. Revoke both.
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
    execute format('grant connect on database %I to pollcast_reader', current_database());
end $$;
revoke create on schema public from public;

-- The role may read all tables of `public`, also future ones. To grant less, name tables: grant select on orders to …
grant usage on schema public to pollcast_reader;
grant select on all tables in schema public to pollcast_reader;
alter default privileges in schema public grant select on tables to pollcast_reader;

commit;
