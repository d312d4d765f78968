-- What lists are searched by beyond workflow, status, parent and time. A member of an older release that still runs leaves all of it as it
-- is.
ALTER TABLE summary
    ADD COLUMN workflow_name text NOT NULL DEFAULT '',
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    ADD COLUMN error_message text,
    -- The texts that are searched, in small letters; none where they are ASCII, which is made so when it is looked at.
    ADD COLUMN folded text;

-- The index of business keys is made beside this (indexes.rs): whoever builds it here keeps lists and projections waiting.

-- A row for each tag of each execution, so that the list of a tag is a walk, too. An inverted index of `tags` has no order: each
-- page would read and sort whatever has the tag.
CREATE TABLE summary_tag (
    tag text COLLATE "C" NOT NULL,
    started_ms bigint NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (tag, started_ms, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Whoever writes or removes summaries, tags follow. Whoever changes a tag has the row of its summary, so nobody waits in a circle.
CREATE FUNCTION keep_tags() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM summary_tag WHERE tag = ANY (OLD.tags) AND started_ms = OLD.started_ms AND id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO summary_tag (tag, started_ms, id)
        SELECT name, NEW.started_ms, NEW.id FROM unnest(NEW.tags) AS name
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER summary_tagged AFTER INSERT ON summary
    FOR EACH ROW WHEN (NEW.tags <> '{}') EXECUTE FUNCTION keep_tags();
CREATE TRIGGER summary_untagged AFTER DELETE ON summary
    FOR EACH ROW WHEN (OLD.tags <> '{}') EXECUTE FUNCTION keep_tags();
CREATE TRIGGER summary_retagged AFTER UPDATE ON summary
    FOR EACH ROW WHEN (OLD.tags <> NEW.tags OR OLD.started_ms <> NEW.started_ms) EXECUTE FUNCTION keep_tags();
