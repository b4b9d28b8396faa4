-- What a verdict rests on, and how long it stands.
ALTER TABLE verdicts ADD COLUMN low DOUBLE;                            -- 95 % interval of the relative change
ALTER TABLE verdicts ADD COLUMN high DOUBLE;
ALTER TABLE verdicts ADD COLUMN p_value DOUBLE;
ALTER TABLE verdicts ADD COLUMN since_run VARCHAR DEFAULT '';          -- first run of what is not as it should be
ALTER TABLE verdicts ADD COLUMN baseline_run VARCHAR DEFAULT '';       -- first run that counts for the baseline
ALTER TABLE verdicts ADD COLUMN is_confirmed BOOLEAN;                  -- NULL: not measured again
ALTER TABLE verdicts ADD COLUMN is_machine BOOLEAN DEFAULT false;

-- Suspects, measured again in the same night beside the last good configuration and the code of before.
CREATE TABLE retrials (
    run_id         VARCHAR NOT NULL,
    case_key       VARCHAR NOT NULL,
    provider       VARCHAR NOT NULL,
    timer          VARCHAR NOT NULL,
    host_id        VARCHAR NOT NULL,
    version        VARCHAR NOT NULL,           -- tonight, last good config, previous code
    of_run         VARCHAR NOT NULL,           -- whose configuration or code it is; '' for tonight's
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
    PRIMARY KEY (run_id, case_key, provider, timer, host_id, version)
);
-- What stands until somebody deals with it.
CREATE TABLE incidents (
    incident_id     VARCHAR PRIMARY KEY,
    state           VARCHAR NOT NULL,
    subject         VARCHAR NOT NULL,
    since_run       VARCHAR NOT NULL,
    opened_run      VARCHAR NOT NULL,
    opened_at       TIMESTAMP NOT NULL,        -- UTC
    series          JSON NOT NULL,
    lowest_change   DOUBLE,
    highest_change  DOUBLE,
    causes          JSON NOT NULL,
    evidence        VARCHAR NOT NULL,
    told_at         TIMESTAMP,                 -- UTC
    resolved_run    VARCHAR NOT NULL,          -- '' while it stands
    acknowledgement VARCHAR NOT NULL,          -- why a person expects it; '' if nobody has said so
    num_told        INTEGER NOT NULL,          -- how many series it had when it was told last
    seed            BIGINT NOT NULL            -- of the runs that it is of
);
-- What people said: a change is expected, or a baseline begins.
CREATE TABLE marks (
    made_at         TIMESTAMP NOT NULL,        -- UTC
    made_by         VARCHAR NOT NULL,
    case_key        VARCHAR NOT NULL,
    provider        VARCHAR NOT NULL,
    timer           VARCHAR NOT NULL,
    device_name     VARCHAR NOT NULL,
    first_run       VARCHAR NOT NULL,          -- nights before it no longer count
    made_after      VARCHAR NOT NULL,          -- the newest run then: later verdicts know of the mark
    reason          VARCHAR NOT NULL
);
-- Messages on their way: one row for each channel, kept until it is sent or given up.
CREATE TABLE letters (
    alert_id        VARCHAR NOT NULL,
    channel         VARCHAR NOT NULL,
    body            VARCHAR NOT NULL,
    made_at         TIMESTAMP NOT NULL,        -- UTC
    attempts        INTEGER NOT NULL,
    error           VARCHAR NOT NULL,          -- of the last attempt; '' if it was sent or not tried
    failed_at       TIMESTAMP,                 -- of the last attempt that failed, UTC
    sent_at         TIMESTAMP,                 -- UTC
    given_up        BOOLEAN NOT NULL,
    PRIMARY KEY (alert_id, channel)
);
