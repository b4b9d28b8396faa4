-- A branch against its base. Nothing here is of a run: no trend, no verdict and no listing of runs reads these tables.
CREATE TABLE comparisons (
    comparison_id VARCHAR PRIMARY KEY,
    number        INTEGER NOT NULL,            -- order in which they were started
    head          VARCHAR NOT NULL,
    head_commit   VARCHAR NOT NULL,            -- of uncommitted work its tree
    base          VARCHAR NOT NULL,
    base_commit   VARCHAR NOT NULL,
    arguments     JSON NOT NULL,
    seed          BIGINT NOT NULL,
    least_change  DOUBLE NOT NULL,             -- relative change that is to be told from none
    started_at    TIMESTAMP NOT NULL,          -- UTC
    status        VARCHAR NOT NULL,
    finished_at   TIMESTAMP                    -- UTC, NULL while running
);
-- One row per series and side of each sitting.
CREATE TABLE sittings (
    comparison_id  VARCHAR NOT NULL,
    layer_key      VARCHAR NOT NULL,
    device_name    VARCHAR NOT NULL,
    number         INTEGER NOT NULL,
    seconds        DOUBLE NOT NULL,
    is_head        BOOLEAN NOT NULL,
    case_key       VARCHAR NOT NULL,
    provider       VARCHAR NOT NULL,
    timer          VARCHAR NOT NULL,
    host_id        VARCHAR NOT NULL,
    status         VARCHAR NOT NULL,
    reason         VARCHAR NOT NULL,
    relative_error DOUBLE,
    share_close    DOUBLE,
    config         JSON NOT NULL,
    flops          BIGINT NOT NULL,
    bytes_moved    BIGINT NOT NULL,
    measured_at    TIMESTAMP NOT NULL,         -- UTC
    samples_us     DOUBLE[] NOT NULL,
    trials         JSON NOT NULL,
    source_sha256  VARCHAR NOT NULL,
    compiled       JSON NOT NULL,
    PRIMARY KEY (comparison_id, device_name, number, is_head, case_key, provider, timer)
);
