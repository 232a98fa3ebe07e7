"""The pages: a thin Streamlit view over the platform's gRPC services. It keeps nothing itself."""
