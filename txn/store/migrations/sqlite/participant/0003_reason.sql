-- Why a branch in one phase was refused, for who asks again; empty in all others.
ALTER TABLE branch ADD COLUMN reason TEXT NOT NULL DEFAULT '';
