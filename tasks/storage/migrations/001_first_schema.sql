-- Runs, the environments they ran in, and every sample of every measurement.
CREATE TABLE runs (
    run_id         VARCHAR PRIMARY KEY,
    suite          VARCHAR NOT NULL,
    arguments      JSON NOT NULL,       -- what narrowed the suite
    seed           BIGINT NOT NULL,
    git_commit     VARCHAR NOT NULL,
    git_dirty      BOOLEAN NOT NULL,
    started_at     TIMESTAMP NOT NULL,  -- UTC
    status         VARCHAR NOT NULL,
    finished_at    TIMESTAMP,           -- UTC
    stage_seconds  JSON NOT NULL
);
CREATE TABLE hosts (
    host_id        VARCHAR PRIMARY KEY,
    device_type    VARCHAR NOT NULL,
    device_name    VARCHAR NOT NULL,
    capability     VARCHAR NOT NULL,    -- "9.0"; "0.0" on a CPU
    device_uuid    VARCHAR NOT NULL,
    driver         VARCHAR NOT NULL,
    cuda           VARCHAR NOT NULL,
    python         VARCHAR NOT NULL,
    torch          VARCHAR NOT NULL,
    triton         VARCHAR NOT NULL,
    vllm           VARCHAR NOT NULL,
    num_cpus       INTEGER NOT NULL
);
CREATE TABLE cases (
    case_key       VARCHAR PRIMARY KEY,
    layer_key      VARCHAR NOT NULL,
    kernel         VARCHAR NOT NULL,
    model          VARCHAR NOT NULL,
    tp_size        INTEGER NOT NULL,
    ep_size        INTEGER NOT NULL,
    scheme         VARCHAR NOT NULL,
    dtype          VARCHAR NOT NULL,
    sizes          JSON NOT NULL,
    num_tokens     INTEGER NOT NULL,
    options        JSON NOT NULL
);
CREATE TABLE weights (
    run_id         VARCHAR NOT NULL,
    layer_key      VARCHAR NOT NULL,
    seed           BIGINT NOT NULL,
    sha256         VARCHAR NOT NULL,
    size_bytes     BIGINT NOT NULL,
    seconds        DOUBLE NOT NULL,
    host_id        VARCHAR NOT NULL,
    PRIMARY KEY (run_id, layer_key)
);
CREATE TABLE measurements (
    run_id         VARCHAR NOT NULL,
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
    measured_at    TIMESTAMP NOT NULL,  -- UTC
    samples_us     DOUBLE[] NOT NULL,
    PRIMARY KEY (run_id, case_key, provider, timer)
);
CREATE TABLE verdicts (
    run_id          VARCHAR NOT NULL,
    case_key        VARCHAR NOT NULL,
    provider        VARCHAR NOT NULL,
    timer           VARCHAR NOT NULL,
    device_name     VARCHAR NOT NULL,
    state           VARCHAR NOT NULL,
    evidence        VARCHAR NOT NULL,
    median_us       DOUBLE,
    baseline_us     DOUBLE,
    relative_change DOUBLE,
    PRIMARY KEY (run_id, case_key, provider, timer, device_name)
);
CREATE TABLE tuned_configs (
    kernel         VARCHAR NOT NULL,
    layer_key      VARCHAR NOT NULL,
    device_name    VARCHAR NOT NULL,
    num_tokens     INTEGER NOT NULL,
    config         JSON NOT NULL,
    median_us      DOUBLE NOT NULL,
    run_id         VARCHAR NOT NULL,
    PRIMARY KEY (kernel, layer_key, device_name, num_tokens, run_id)
);
