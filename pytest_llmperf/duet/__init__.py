"""Base and head, each in a process of its own, measured in alternation in one sitting."""
