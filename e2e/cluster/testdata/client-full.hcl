name       = "client1"
data_dir   = "/tmp/np-abc/c1/data"
bind_addr  = "127.0.0.1"
log_level  = "DEBUG"
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
  http = 12013
  rpc  = 12014
  serf = 12008
}

# Everybody is 127.0.0.1 here, so limits per address are limits of all.
limits {
  http_max_conns_per_client = 2000
  rpc_max_conns_per_client  = 2000
}

consul {
  address = "127.0.0.1:12015"
}

client {
  enabled      = true
  no_host_uuid = true

  alloc_dir         = "/tmp/np-abc/c1/a"
  network_interface = "lo"
  cni_path          = "/usr/lib/cni"

  meta {
    # For jobs that talk to the Consul agent of their node.
    consul_http   = "127.0.0.1:12015"
    consul_socket = "/tmp/np-abc/consul1/http.sock"
  }

  # The clients of a cluster share loopback.
  min_dynamic_port = 12525
  max_dynamic_port = 12999

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

plugin "docker" {
  config {
    infra_image = "nomad-patterns/pause:1"

    volumes {
      enabled = true
    }

    gc {
      # Images are built here and could not be pulled again.
      image = false

      # Several clients share one engine and would remove one another's.
      dangling_containers {
        enabled = false
      }
    }
  }
}

plugin "lifecycle-docker" {
  args = ["-inner=docker"]

  config {
    infra_image = "nomad-patterns/pause:1"

    volumes {
      enabled = true
    }

    gc {
      # Images are built here and could not be pulled again.
      image = false

      # Several clients share one engine and would remove one another's.
      dangling_containers {
        enabled = false
      }
    }

    lifecycle {
      nomad {
        address = "http://127.0.0.1:12013"
      }

      consul {
        address = "127.0.0.1:12015"
      }

      stores = {
        shared = "file:///tmp/np-abc/checkpoints"
      }

      endpoint {
        dir = "/tmp/np-abc/c1/e"
      }
    }
  }
}

plugin "lifecycle-exec" {
  args = ["-inner=exec"]

  config {

    lifecycle {
      nomad {
        address = "http://127.0.0.1:12013"
      }

      consul {
        address = "127.0.0.1:12015"
      }

      stores = {
        shared = "file:///tmp/np-abc/checkpoints"
      }

      endpoint {
        dir = "/tmp/np-abc/c1/e"
      }
    }
  }
}

plugin "lifecycle-raw_exec" {
  args = ["-inner=raw_exec"]

  config {
    enabled = true

    lifecycle {
      nomad {
        address = "http://127.0.0.1:12013"
      }

      consul {
        address = "127.0.0.1:12015"
      }

      stores = {
        shared = "file:///tmp/np-abc/checkpoints"
      }

      endpoint {
        dir = "/tmp/np-abc/c1/e"
      }
    }
  }
}
