"""Reads studies, compares them and draws them; nothing here changes a study or looks at images by itself."""
