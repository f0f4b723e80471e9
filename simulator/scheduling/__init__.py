"""In which order requests are served: orders (whom), and the batching policy that serves any engine's steps in one."""
