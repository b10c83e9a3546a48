"""SmolLM2-135M-Instruct.Q4_1.gguf lies beside this file; nothing here needs to be imported."""
