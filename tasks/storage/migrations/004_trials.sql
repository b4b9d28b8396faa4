-- Runs in the order they were started, whatever the clock said.
ALTER TABLE runs ADD COLUMN number INTEGER;
UPDATE runs SET number = ordered.number
    FROM (SELECT run_id, row_number() OVER (ORDER BY started_at, run_id) AS number FROM runs) AS ordered
    WHERE runs.run_id = ordered.run_id;

-- A unit may be measured on several devices in one run, and a measurement says how it was taken and of what code.
CREATE TABLE weights_of_hosts (
    run_id         VARCHAR NOT NULL,
    layer_key      VARCHAR NOT NULL,
    seed           BIGINT NOT NULL,
    sha256         VARCHAR NOT NULL,
    size_bytes     BIGINT NOT NULL,
    seconds        DOUBLE NOT NULL,
    host_id        VARCHAR NOT NULL,
    PRIMARY KEY (run_id, layer_key, host_id)
);
INSERT INTO weights_of_hosts BY NAME SELECT * FROM weights;
DROP TABLE weights;
ALTER TABLE weights_of_hosts RENAME TO weights;
CREATE TABLE measurements_of_hosts (
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
    measured_at    TIMESTAMP NOT NULL,         -- UTC
    samples_us     DOUBLE[] NOT NULL,          -- those that count
    trials         JSON NOT NULL DEFAULT '[]', -- how they were taken, the device's clocks, and samples set aside
    source_sha256  VARCHAR NOT NULL DEFAULT '',
    compiled       JSON NOT NULL DEFAULT '[]', -- Triton kernels: machine code's digest, registers, shared memory, spills
    PRIMARY KEY (run_id, case_key, provider, timer, host_id)
);
INSERT INTO measurements_of_hosts BY NAME SELECT * FROM measurements;
DROP TABLE measurements;
ALTER TABLE measurements_of_hosts RENAME TO measurements;

-- Kernels that never change, timed beside every case: their trend tells a slow machine from a slow kernel.
CREATE TABLE reference_times (
    run_id         VARCHAR NOT NULL,
    case_key       VARCHAR NOT NULL,
    timer          VARCHAR NOT NULL,
    host_id        VARCHAR NOT NULL,
    name           VARCHAR NOT NULL,           -- as of the ceilings
    measured_at    TIMESTAMP NOT NULL,         -- UTC
    samples_us     DOUBLE[] NOT NULL,
    PRIMARY KEY (run_id, case_key, timer, host_id, name)
);
-- Where the seconds of a unit went.
CREATE TABLE unit_costs (
    run_id         VARCHAR NOT NULL,
    layer_key      VARCHAR NOT NULL,
    host_id        VARCHAR NOT NULL,
    seconds        JSON NOT NULL,
    PRIMARY KEY (run_id, layer_key, host_id)
);
-- What killed a worker or hung in it, stored when it happens: a resumed run does not try again what did so twice.
CREATE TABLE crashes (
    run_id         VARCHAR NOT NULL,
    case_key       VARCHAR NOT NULL,
    provider       VARCHAR NOT NULL,
    device_name    VARCHAR NOT NULL,
    status         VARCHAR NOT NULL,           -- crashed or hung
    reason         VARCHAR NOT NULL,
    crashed_at     TIMESTAMP NOT NULL          -- UTC
);
