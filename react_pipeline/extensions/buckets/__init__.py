"""The store in object storage: S3, Google Cloud Storage or Azure."""
