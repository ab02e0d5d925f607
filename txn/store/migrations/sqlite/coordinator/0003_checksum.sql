-- CRC-32 of what is written once, see sqlite_log.py; NULL in rows from before it was kept.
ALTER TABLE decision ADD COLUMN checksum INTEGER;
