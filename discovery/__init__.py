"""Who serves what, and where: endpoints in etcd, registered, watched and resolved."""
