-- Gives Pollcast a role in PostgreSQL that can read one schema and do nothing else. Run by the owner of the tables, in
-- the database that is polled; may be run again:
--
--   psql "$DATABASE_URL" -f deploy/postgres-role.sql
--   psql "$DATABASE_URL" -c '\password pollcast_reader'
--
-- Then: POLLCAST_DATABASE_URL=postgresql://pollcast_reader:…@db/shop?sslmode=verify-full&sslrootcert=ca.pem
-- and in pg_hba.conf, above what lets others in:
--   hostssl  all  pollcast_reader  all  scram-sha-256
--   host     all  pollcast_reader  all  reject
begin;

do $$
begin
    if not exists (select from pg_roles where rolname = 'pollcast_reader') then
        create role pollcast_reader login nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls;
    end if;
end $$;

-- As many as all pollers have connections (POLLCAST_POOL each), and some for a rolling restart.
alter role pollcast_reader connection limit 64;

-- Pollcast asks for the same in every transaction. This holds for whoever else gets hold of the password.
alter role pollcast_reader set default_transaction_read_only = on;
alter role pollcast_reader set statement_timeout = '1min';
alter role pollcast_reader set idle_in_transaction_session_timeout = '1min';

-- Everyone may make temporary tables, and before PostgreSQL 15 tables in `public` as well, unless that is taken back.
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
    execute format('grant connect on database %I to pollcast_reader', current_database());
end $$;
revoke create on schema public from public;

-- What may be read: all of `public`, now and in future. For less, name tables instead: grant select on orders to …
grant usage on schema public to pollcast_reader;
grant select on all tables in schema public to pollcast_reader;
alter default privileges in schema public grant select on tables to pollcast_reader;

commit;
