-- Searches for launch configurations. Their id is a digest of all that decides what they ask.
CREATE TABLE searches (
    search_id         VARCHAR PRIMARY KEY,
    kernel            VARCHAR NOT NULL,
    provider          VARCHAR NOT NULL,
    num_experts       INTEGER NOT NULL,           -- of one rank; 0 of a linear layer
    intermediate_size INTEGER NOT NULL,
    hidden_size       INTEGER NOT NULL,
    top_k             INTEGER NOT NULL,
    scheme            VARCHAR NOT NULL,
    block_n           INTEGER NOT NULL,           -- weights per scale; 0 without blocks
    block_k           INTEGER NOT NULL,
    device_name       VARCHAR NOT NULL,
    layer_key         VARCHAR NOT NULL,
    batch_sizes       INTEGER[] NOT NULL,
    source_sha256     VARCHAR NOT NULL,           -- of the kernel's source; the version of a library's kernel
    triton_version    VARCHAR NOT NULL,
    space_sha256      VARCHAR NOT NULL,
    seed              BIGINT NOT NULL,
    started_at        TIMESTAMP NOT NULL,         -- UTC
    finished_at       TIMESTAMP                   -- UTC; NULL while it runs, or was killed
);
-- Every answer that a search was given, in order: one that was killed goes on from them. A row for each configuration.
CREATE TABLE tuning_trials (
    search_id         VARCHAR NOT NULL,
    number            INTEGER NOT NULL,           -- of the answer
    place             INTEGER NOT NULL,           -- of the configuration in it
    batch_size        INTEGER NOT NULL,
    num_trials        INTEGER NOT NULL,           -- that were asked for
    is_checked        BOOLEAN NOT NULL,
    config            JSON NOT NULL,
    status            VARCHAR NOT NULL,
    reason            VARCHAR NOT NULL,
    samples_us        DOUBLE[] NOT NULL,          -- the median of each trial
    seconds           DOUBLE NOT NULL,            -- of the whole answer
    PRIMARY KEY (search_id, number, place)
);
-- What a search found for each batch size. Nothing was ever written to the table of before.
DROP TABLE tuned_configs;
CREATE TABLE tuned_configs (
    search_id         VARCHAR NOT NULL,
    batch_size        INTEGER NOT NULL,
    config            JSON NOT NULL,
    is_replaced       BOOLEAN NOT NULL,           -- whether it is another than what was used
    reason            VARCHAR NOT NULL,
    used_us           DOUBLE,                     -- of what was used, side by side with it
    median_us         DOUBLE,
    PRIMARY KEY (search_id, batch_size)
);
