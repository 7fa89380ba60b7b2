# Scatter/gather: a root asks all shards of a service at once and merges their answers.
#
#   nomad job run scatter-gather.nomad.hcl
#   curl -i http://127.0.0.1:PORT/search          # PORT of the service "scatter" in Consul
#
# As it stands four shards with two replicas each are nginx, and answer with their names;
# the answer of the root is the list of all. Put your own programs in at the end of this
# file, or your own images with -var driver=docker. What is to be known of an instance is
# its shard: the service in Consul says it in its meta, shard = "0" and so on.
#
# A shard is updated, drained and stopped one replica after the other. Each leaves Consul,
# serves for drain_wait on, finishes, and ends (driver lifecycle-raw_exec or
# lifecycle-docker); the root asks the others meanwhile, so no query fails and none is
# answered in part.
#
#   -var parents=2   makes a tree: the root asks two parents, each of which is a root that
#                    asks its part of the shards. The coverage counts the leaves.
#
# Headers, statuses, merges and what a merge container has to do: docs/scatter.md.

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "scatter-gather"

  validation {
    condition     = var.job_name != "" && regex_replace(var.job_name, "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "") == ""
    error_message = "The job_name must be 1 to 64 letters, digits, dots, dashes or underscores, and begin with a letter or digit."
  }
}

variable "namespace" {
  description = "Nomad namespace of the job."
  type        = string
  default     = "default"
}

variable "datacenters" {
  description = "Datacenters in which instances may be placed. [\"*\"] is all of them."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.datacenters) > 0
    error_message = "The datacenters must name at least one, or be [\"*\"]."
  }
}

variable "node_pool" {
  description = "Node pool in which instances are placed."
  type        = string
  default     = "default"
}

variable "driver" {
  description = "\"raw_exec\" or \"docker\". The leaves use the lifecycle driver of it."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text. Another one makes a new version of the job, whose leaves are updated."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._-]{1,64}$", "") == ""
    error_message = "The release must be 1 to 64 letters, digits, dots, dashes or underscores."
  }
}

# --- the root ---------------------------------------------------------------------

variable "service" {
  description = "Name of the root in Consul."
  type        = string
  default     = "scatter"

  validation {
    condition     = var.service != "" && regex_replace(var.service, "^[a-z0-9][a-z0-9-]{0,50}$", "") == ""
    error_message = "The service must be 1 to 51 small letters, digits or dashes, and begin with a letter or digit."
  }
}

variable "roots" {
  description = "Number of roots. They know nothing of each other."
  type        = number
  default     = 1

  validation {
    condition     = var.roots >= 1 && var.roots <= 100 && floor(var.roots) == var.roots
    error_message = "The roots must be a whole number from 1 to 100."
  }
}

variable "pattern" {
  description = "What is asked: method and path of a route."
  type        = string
  default     = "GET /search"

  validation {
    condition     = var.pattern != "" && regex_replace(var.pattern, "^([A-Z]+ )?/[A-Za-z0-9/._{}-]+$", "") == ""
    error_message = "The pattern must be a path, such as \"/search\", with a method before it or not."
  }
}

variable "merge" {
  description = "How answers are merged: concat, json-array, ndjson, json-merge, sum, or container (merge_command or merge_image)."
  type        = string
  default     = "json-array"

  validation {
    condition     = contains(["concat", "json-array", "ndjson", "json-merge", "sum", "container"], var.merge)
    error_message = "The merge must be one of concat, json-array, ndjson, json-merge, sum, container."
  }
}

variable "timeout" {
  description = "How long a query may take unless it says so itself."
  type        = string
  default     = "1s"

  validation {
    condition     = var.timeout != "" && regex_replace(var.timeout, "^[1-9][0-9]*(ms|s|m)$", "") == ""
    error_message = "The timeout must be a duration such as \"500ms\" or \"2s\"."
  }
}

variable "min_coverage" {
  description = "Share of leaves that has to be in an answer unless a query says so itself. Less than 1 allows answers in part."
  type        = number
  default     = 1

  validation {
    condition     = var.min_coverage > 0 && var.min_coverage <= 1
    error_message = "The min_coverage must be more than 0 and at most 1."
  }
}

variable "listen" {
  description = "Where roots listen and are reached: \"loopback\" (by clients on the same machine) or \"network\" (with a token, nomad var put nomad/jobs/JOB token=...)."
  type        = string
  default     = "loopback"

  validation {
    condition     = contains(["loopback", "network"], var.listen)
    error_message = "The listen must be \"loopback\" or \"network\"."
  }
}

variable "consul_addr" {
  description = "URL of the Consul agent on the client machine."
  type        = string
  default     = "http://127.0.0.1:8500"

  validation {
    condition     = var.consul_addr != "" && regex_replace(var.consul_addr, "^https?://[^/]+$", "") == ""
    error_message = "The consul_addr must be a URL such as http://127.0.0.1:8500, without a path."
  }
}

variable "scatter_program" {
  description = "The program scatter on the client machine (driver raw_exec): an absolute path, or a name that is found on the PATH of the Nomad client."
  type        = string
  default     = "scatter"

  validation {
    condition     = var.scatter_program != "" && regex_replace(var.scatter_program, "^(/[^ ]*|[^/ ]+)$", "") == ""
    error_message = "The scatter_program must be an absolute path, or a name without slashes."
  }
}

variable "scatter_image" {
  description = "Image with /bin/scatter and nothing else needed (driver docker)."
  type        = string
  default     = "nomad-patterns/scatter:1"

  validation {
    condition     = var.scatter_image != ""
    error_message = "The scatter_image must not be empty."
  }
}

variable "merge_command" {
  description = "With merge = \"container\" and driver raw_exec: the program and its arguments. It listens at $MERGE_ADDR."
  type        = list(string)
  default     = []
}

variable "merge_image" {
  description = "With merge = \"container\" and driver docker: the image. It listens at $MERGE_ADDR."
  type        = string
  default     = ""
}

variable "root_cpu" {
  description = "CPU share of a root, in MHz."
  type        = number
  default     = 200

  validation {
    condition     = var.root_cpu >= 1
    error_message = "The root_cpu must be at least 1 MHz."
  }
}

variable "root_memory" {
  description = "Memory of a root, in MB: 64, and what its answers and partial answers may have."
  type        = number
  default     = 160

  validation {
    condition     = var.root_memory >= 64
    error_message = "The root_memory must be at least 64 MB."
  }
}

# --- the leaves -------------------------------------------------------------------

variable "shards" {
  description = "Number of shards."
  type        = number
  default     = 4

  validation {
    condition     = var.shards >= 1 && var.shards <= 1000 && floor(var.shards) == var.shards
    error_message = "The shards must be a whole number from 1 to 1000."
  }
}

variable "replicas" {
  description = "Number of instances of each shard."
  type        = number
  default     = 2

  validation {
    condition     = var.replicas >= 1 && var.replicas <= 100 && floor(var.replicas) == var.replicas
    error_message = "The replicas must be a whole number from 1 to 100."
  }
}

variable "parents" {
  description = "Number of parents between the root and the leaves. 0: none, the root asks the leaves."
  type        = number
  default     = 0

  validation {
    condition     = var.parents >= 0 && var.parents <= 100 && floor(var.parents) == var.parents
    error_message = "The parents must be a whole number from 0 to 100."
  }
}

variable "nginx" {
  description = "The program nginx on the client machine (driver raw_exec)."
  type        = string
  default     = "/usr/sbin/nginx"

  validation {
    condition     = var.nginx != ""
    error_message = "The nginx must not be empty."
  }
}

variable "image" {
  description = "Image of the leaves (driver docker). The sample needs /bin/busybox and nothing else."
  type        = string
  default     = "nomad-patterns/busybox:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

variable "drain_wait" {
  description = "How long a leaf serves on after it has left Consul, in whole seconds."
  type        = string
  default     = "2s"

  validation {
    condition     = var.drain_wait != "" && regex_replace(var.drain_wait, "^[1-9][0-9]{0,2}s$", "") == ""
    error_message = "The drain_wait must be whole seconds, for example \"2s\"."
  }
}

variable "cpu" {
  description = "CPU share of a leaf, in MHz."
  type        = number
  default     = 50

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of a leaf, in MB."
  type        = number
  default     = 32

  validation {
    condition     = var.memory >= 16
    error_message = "The memory must be at least 16 MB."
  }
}

locals {
  docker = var.driver == "docker"
  open   = var.listen == "network"
  tree   = var.parents > 0

  # Who is asked by whom.
  leaf_service   = "${var.service}-leaf"
  parent_service = "${var.service}-parent"
  shards         = { for s in range(var.shards) : format("%d", s) => local.tree ? "${local.leaf_service}-${s % var.parents}" : local.leaf_service }
  # Roots by the name of their group: how many there are, whom they ask, what they are in
  # Consul, and which shards there have to be.
  roots = merge(
    { root = {
      count   = var.roots
      asks    = local.tree ? local.parent_service : local.leaf_service
      has     = [for n in range(local.tree ? var.parents : var.shards) : format("%d", n)]
      service = var.service
      shard   = ""
    } },
    { for p in range(var.parents) : "parent-${p}" => {
      count   = 1
      asks    = "${local.leaf_service}-${p}"
      has     = [for n in range(var.shards) : format("%d", n) if n % var.parents == p]
      service = local.parent_service
      shard   = format("%d", p)
    } },
  )

  address = local.open ? "$${NOMAD_IP_root}:$${NOMAD_PORT_root}" : "127.0.0.1:$${NOMAD_PORT_root}"
  args = concat(["agent", "-listen=${local.address}", "-config=$${NOMAD_TASK_DIR}/scatter.hcl"],
  local.open ? ["-listen-token-file=$${NOMAD_SECRETS_DIR}/token"] : [])

  # The token of roots that are reached over the network is kept in a variable of Nomad.
  token = <<-TOKEN
    {{ with nomadVar "nomad/jobs/${var.job_name}" }}{{ .token }}{{ end }}
  TOKEN
  # Parents want it too.
  leaf_token = local.open && local.tree ? "token_file = \"{{ env \"NOMAD_SECRETS_DIR\" }}/token\"" : ""

  merge_program = var.merge == "container" ? [local.docker ? var.merge_image : try(var.merge_command[0], "")] : []
  container     = var.merge == "container" ? "container {\n    url = \"http://127.0.0.1:{{ env \"NOMAD_PORT_merge\" }}\"\n  }" : ""

  # Time to wait, to finish, and some more.
  kill_timeout = format("%ds", parseint(trimsuffix(var.drain_wait, "s"), 10) + 15)
}

job "scatter-gather" {
  id          = var.job_name
  name        = var.job_name
  namespace   = var.namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool
  type        = "service"

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "1s"
    healthy_deadline  = "2m"
    progress_deadline = "10m"
    auto_revert       = true
  }

  # The same care when a node is drained.
  migrate {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "1s"
    healthy_deadline = "2m"
  }

  dynamic "group" {
    for_each = local.roots
    labels   = [group.key]

    content {
      count = group.value.count

      network {
        mode = "host"

        port "root" {}
        port "merge" {}
      }

      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      # Clients have heard of its end when it comes.
      shutdown_delay = "2s"

      spread {
        attribute = "$${node.unique.id}"
      }

      service {
        name     = group.value.service
        port     = "root"
        provider = "consul"
        address  = local.open ? "$${attr.unique.network.ip-address}" : "127.0.0.1"

        meta {
          shard = group.value.shard
        }

        check {
          type     = "http"
          path     = "/v1/health"
          interval = "1s"
          timeout  = "2s"
        }
      }

      task "root" {
        driver       = var.driver
        kill_signal  = "SIGTERM" # answer what was asked
        kill_timeout = "15s"     # it takes 10s at most

        # One of the two, as the variable "driver" says.
        dynamic "config" {
          for_each = local.docker ? [] : [var.scatter_program]

          content {
            command = config.value
            args    = local.args
          }
        }

        dynamic "config" {
          for_each = local.docker ? [var.scatter_image] : []

          content {
            image        = config.value
            command      = "/bin/scatter"
            args         = local.args
            network_mode = "host"
          }
        }

        env {
          CONSUL_HTTP_ADDR = var.consul_addr
        }

        template {
          destination = "local/scatter.hcl"
          change_mode = "noop"
          data        = <<-CONFIG
            route "${var.service}" {
              pattern      = "${var.pattern}"
              service      = "${group.value.asks}"
              shards       = ${jsonencode(group.value.has)}
              timeout      = "${var.timeout}"
              min_coverage = "${var.min_coverage}"
              merge        = "${var.merge}"
              ${local.container}
              ${group.key == "root" ? local.leaf_token : ""}
            }
          CONFIG
        }

        dynamic "template" {
          for_each = local.open ? [local.token] : []

          content {
            destination   = "secrets/token"
            change_mode   = "signal"
            change_signal = "SIGHUP"
            data          = template.value
          }
        }

        resources {
          cpu    = var.root_cpu
          memory = var.root_memory
        }
      }

      # The merge container, beside its root.
      dynamic "task" {
        for_each = local.merge_program
        labels   = ["merge"]

        content {
          driver = var.driver

          lifecycle {
            hook    = "prestart"
            sidecar = true
          }

          dynamic "config" {
            for_each = local.docker ? [] : [task.value]

            content {
              command = config.value
              args    = slice(var.merge_command, 1, length(var.merge_command))
            }
          }

          dynamic "config" {
            for_each = local.docker ? [task.value] : []

            content {
              image        = config.value
              network_mode = "host"
            }
          }

          env {
            MERGE_ADDR = "127.0.0.1:$${NOMAD_PORT_merge}"
          }

          resources {
            cpu    = 100
            memory = 128
          }
        }
      }
    }
  }

  dynamic "group" {
    for_each = local.shards
    labels   = ["leaf-${group.key}"]

    content {
      count = var.replicas

      # Not of the job: roots need not be replaced.
      meta {
        release = var.release
      }

      network {
        port "http" {
          # The port inside the container. 0: the process listens at the port itself.
          to = local.docker ? 8080 : 0
        }
      }

      restart {
        attempts = 20
        interval = "5m"
        delay    = "1s"
        mode     = "delay"
      }

      # Replicas of a shard rather on different machines.
      spread {
        attribute = "$${node.unique.id}"
      }

      # One of the two tasks below exists, as the variable "driver" says.
      dynamic "task" {
        for_each = local.docker ? [] : [group.value]
        labels   = ["leaf"]

        content {
          driver       = "lifecycle-raw_exec"
          kill_signal  = "SIGQUIT" # finish the requests that are running
          kill_timeout = local.kill_timeout

          config {
            command = var.nginx
            args    = ["-p", "$${NOMAD_TASK_DIR}", "-c", "$${NOMAD_TASK_DIR}/nginx.conf", "-e", "stderr"]

            lifecycle {
              ready {
                http {
                  port = "http"
                  path = "/health"
                }
                interval = "200ms"
                timeout  = "30s"
              }
              # The service has left Consul by now, and roots hear of it.
              prestop {
                sleep = var.drain_wait
              }
            }
          }

          template {
            destination = "local/nginx.conf"
            change_mode = "noop"
            data        = <<-NGINX
              daemon off;
              pid nginx.pid;
              error_log stderr;
              worker_processes 1;
              events {
                worker_connections 1024;
              }
              http {
                access_log off;
                client_body_temp_path tmp-body;
                proxy_temp_path tmp-proxy;
                fastcgi_temp_path tmp-fastcgi;
                uwsgi_temp_path tmp-uwsgi;
                scgi_temp_path tmp-scgi;
                server {
                  listen {{ env "NOMAD_ADDR_http" }};
                  default_type application/json;
                  location = /health {
                    return 200 "{}\n";
                  }
                  location / {
                    return 200 '["shard ${group.key} of ${var.shards}, release ${var.release}, instance {{ env "NOMAD_SHORT_ALLOC_ID" }}"]\n';
                  }
                }
              }
            NGINX
          }

          # A service of the task: it leaves Consul before the task is stopped, on a restart
          # as well.
          service {
            name     = task.value
            port     = "http"
            provider = "consul"

            meta {
              shard = group.key
            }

            check {
              type     = "http"
              path     = "/health"
              interval = "1s"
              timeout  = "2s"
            }
          }

          resources {
            cpu    = var.cpu
            memory = var.memory
          }
        }
      }

      dynamic "task" {
        for_each = local.docker ? [group.value] : []
        labels   = ["leaf"]

        content {
          driver       = "lifecycle-docker"
          kill_signal  = "SIGTERM"
          kill_timeout = local.kill_timeout

          config {
            image   = var.image
            command = "/bin/busybox"
            args    = ["httpd", "-f", "-p", "8080", "-h", "/local/srv"]
            ports   = ["http"]
            init    = true # as process 1 busybox httpd would not hear SIGTERM

            lifecycle {
              ready {
                http {
                  port = "http"
                  path = "/health"
                }
                interval = "200ms"
                timeout  = "30s"
              }
              prestop {
                sleep = var.drain_wait
              }
            }
          }

          template {
            destination = "local/srv/health"
            change_mode = "noop"
            data        = "{}\n"
          }

          # busybox httpd serves files: the answer to the pattern's path.
          template {
            destination = "local/srv/${trimprefix(regex_replace(var.pattern, "^[A-Z]+ ", ""), "/")}"
            change_mode = "noop"
            data        = <<-JSON
              ["shard ${group.key} of ${var.shards}, release ${var.release}, instance {{ env "NOMAD_SHORT_ALLOC_ID" }}"]
            JSON
          }

          service {
            name     = task.value
            port     = "http"
            provider = "consul"

            meta {
              shard = group.key
            }

            check {
              type     = "http"
              path     = "/health"
              interval = "1s"
              timeout  = "2s"
            }
          }

          resources {
            cpu    = var.cpu
            memory = var.memory
          }
        }
      }
    }
  }
}
