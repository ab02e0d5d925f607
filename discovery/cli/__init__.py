"""The command line of `discovery`: `python -m discovery ls|watch|register|drain`.

A user types these many times, so `main` and `arguments` import little, and what speaks to
etcd is imported once it is known that something is to be said.

    arguments     what was asked for                     (argparse only)
    main          runs it; errors become one line and an exit code
    connection    the client, and one question to it within the time allowed
    ls watch register drain    one module for each command
    survey changes marking text    what they show and write    (pure)
    console stopping    how it is written out, and when it ends
"""
