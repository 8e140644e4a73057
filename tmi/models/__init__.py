"""The model: embeddings of all streams, the Inkling-style transformer, text unembedding and flow
head."""
