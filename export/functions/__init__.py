"""The pure functions in torch that become graphs: predict, adapt and learn, and their parts."""
