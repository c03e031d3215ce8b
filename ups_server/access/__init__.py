"""Who may do what: API keys with scopes, kept in the service's database. Imports no torch."""
