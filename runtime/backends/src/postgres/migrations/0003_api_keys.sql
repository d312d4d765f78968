-- Keys of the API. Of a secret only its SHA-256 is kept. An id is sixteen hexadecimal digits.
CREATE TABLE api_key (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    secret bytea NOT NULL,
    created_ms bigint NOT NULL,
    created_by text,
    expires_ms bigint,
    revoked_ms bigint,
    used_ms bigint
);
-- A name tells who did something.
CREATE UNIQUE INDEX api_key_name ON api_key (name) WHERE revoked_ms IS NULL;

-- What came of a change: `ok`, or the code that it was refused or failed with.
ALTER TABLE audit ADD COLUMN outcome text;
