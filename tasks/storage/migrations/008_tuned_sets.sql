-- The sets of launch configurations that a run has listed, and what each costs.
CREATE TABLE tuned_sets (
    run_id            VARCHAR NOT NULL,
    place             INTEGER NOT NULL,           -- what costs most comes first
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
    state             VARCHAR NOT NULL,           -- fresh, stale, unknown, missing
    reasons           VARCHAR[] NOT NULL,
    lost_us           DOUBLE NOT NULL,            -- over all cases where more than noise is lost
    PRIMARY KEY (run_id, place)
);
