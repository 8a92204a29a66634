"""How fast networks are and what memory they take: measured, and predicted from measurements."""
