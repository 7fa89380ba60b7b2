name       = "client0"
data_dir   = "/tmp/np-abc/c0/data"
bind_addr  = "127.0.0.1"
log_level  = "INFO"
plugin_dir = "/tmp/np-abc/plugins"

disable_update_check = true
leave_on_interrupt   = false
leave_on_terminate   = false

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = 12009
  rpc  = 12010
  serf = 12008
}

# Everybody is 127.0.0.1 here, so limits per address are limits of all.
limits {
  http_max_conns_per_client = 2000
  rpc_max_conns_per_client  = 2000
}

consul {
  address = "127.0.0.1:12011"
}

client {
  enabled      = true
  no_host_uuid = true

  alloc_dir         = "/tmp/np-abc/c0/a"
  network_interface = "lo"
  cni_path          = "/usr/lib/cni"

  meta {
    # For jobs that talk to the Consul agent of their node.
    consul_http   = "127.0.0.1:12011"
    consul_socket = "/tmp/np-abc/consul0/http.sock"
  }

  # The clients of a cluster share loopback.
  min_dynamic_port = 12050
  max_dynamic_port = 12524

  # A full disk of the machine must not take ended allocations away from tests.
  gc_disk_usage_threshold  = 99
  gc_inode_usage_threshold = 99

  server_join {
    retry_join     = ["127.0.0.1:12007"]
    retry_interval = "1s"
  }

  options {
    # The probes of the clouds fail, or take seconds, off the clouds.
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}

# Without it Nomad collects no statistics of tasks at all.
telemetry {
  publish_allocation_metrics = true
}

plugin "raw_exec" {
  config {
    enabled = true
  }
}
