-- What each host was measured to do at best, at the start of each run.
CREATE TABLE ceilings (
    run_id         VARCHAR NOT NULL,
    host_id        VARCHAR NOT NULL,
    name           VARCHAR NOT NULL,    -- "copy", "bfloat16 gemm"
    value          DOUBLE NOT NULL,
    unit           VARCHAR NOT NULL,    -- "GB/s", "TFLOP/s"
    PRIMARY KEY (run_id, host_id, name)
);
