-- Texts are compared byte by byte ("C"), so that pages have one order whatever the database's locale. Times are milliseconds
-- since the Unix epoch, as everywhere else in the engine; what only people read is a timestamp.

CREATE TABLE workflow (
    id text COLLATE "C" PRIMARY KEY,
    latest bigint NOT NULL,
    archived boolean NOT NULL
);

-- `definition` is the text that counts: JSONB forgets the order of keys and how numbers were written. `document` is the same
-- for people and their queries.
CREATE TABLE definition (
    workflow text COLLATE "C" NOT NULL REFERENCES workflow (id),
    version bigint NOT NULL,
    stored_ms bigint NOT NULL,
    definition text NOT NULL,
    document jsonb NOT NULL,
    analysis text NOT NULL,
    PRIMARY KEY (workflow, version)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER definition_is_immutable BEFORE UPDATE ON definition FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Rows change a few times in their first seconds and then never again: some room in each page keeps a change that no index sees
-- inside its page, and vacuum comes long before a fifth of millions of rows is dead.
CREATE TABLE summary (
    id uuid PRIMARY KEY,
    parent uuid,
    started_ms bigint NOT NULL,
    ended_ms bigint,
    seq bigint NOT NULL,
    version bigint NOT NULL,
    paused boolean NOT NULL,
    workflow text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    error_code text,
    execution_key text
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- One index a question, each in the order of the list, so that a page is read from its first row to its last and nothing
-- is sorted or skipped, however many executions there are.
CREATE INDEX summary_started ON summary (started_ms, id);
CREATE INDEX summary_workflow ON summary (workflow, started_ms, id);
CREATE INDEX summary_status ON summary (status, started_ms, id);
CREATE INDEX summary_workflow_status ON summary (workflow, status, started_ms, id);
-- Children of one execution, and those that a shard looks for when it is opened. Most executions are nobody's children.
CREATE INDEX summary_parent ON summary (parent, started_ms, id) WHERE parent IS NOT NULL;
CREATE INDEX summary_parent_status ON summary (parent, status, started_ms, id) WHERE parent IS NOT NULL;
CREATE INDEX summary_child_status ON summary (status, started_ms, id) WHERE parent IS NOT NULL;

CREATE TABLE projected (
    shard integer PRIMARY KEY,
    position bigint NOT NULL
) WITH (fillfactor = 50);

-- Who may own a shard. Only grows: a row that went back would let two owners write.
CREATE TABLE epoch (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch > 0),
    owner text NOT NULL,
    issued_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION refuse_older_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.shard <> OLD.shard OR NEW.epoch <= OLD.epoch THEN
        RAISE EXCEPTION 'epoch % of shard % would go back to %', OLD.epoch, OLD.shard, NEW.epoch
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER epoch_only_grows BEFORE UPDATE ON epoch FOR EACH ROW EXECUTE FUNCTION refuse_older_epoch();
