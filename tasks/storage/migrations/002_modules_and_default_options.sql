-- A layer may be one of several of its model, and keys no longer spell options that are at their default.
ALTER TABLE cases ADD COLUMN module VARCHAR DEFAULT '';  -- "qkv_proj" and the like; '' for experts
UPDATE cases SET options = '{}', case_key = replace(case_key, '/token_strategy=uniform', '')
    WHERE contains(case_key, '/token_strategy=uniform');
UPDATE measurements SET case_key = replace(case_key, '/token_strategy=uniform', '')
    WHERE contains(case_key, '/token_strategy=uniform');
UPDATE verdicts SET case_key = replace(case_key, '/token_strategy=uniform', '')
    WHERE contains(case_key, '/token_strategy=uniform');
