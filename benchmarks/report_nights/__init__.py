"""The five nights of docs/report.md, and the pictures of their pages."""
