-- Who changed what. Rows are never changed; whoever is answerable for the database may remove old ones.
CREATE TABLE audit (
    id uuid PRIMARY KEY,
    at_ms bigint NOT NULL,
    principal text COLLATE "C",
    action text COLLATE "C" NOT NULL,
    target_kind text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    before bytea,
    after bytea,
    request text
);
CREATE INDEX audit_at ON audit (at_ms, id);
CREATE INDEX audit_principal ON audit (principal, at_ms, id) WHERE principal IS NOT NULL;
CREATE INDEX audit_target ON audit (target_kind, target_id, at_ms, id);
CREATE TRIGGER audit_is_immutable BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
