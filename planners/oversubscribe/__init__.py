"""How many more servers a row's power budget carries when low-priority work gives way (POLCA, Patel et al., ASPLOS 2024)."""
