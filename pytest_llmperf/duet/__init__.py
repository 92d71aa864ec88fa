"""Base and head in two processes of their own, measured in alternation: what disturbs one disturbs the other."""
