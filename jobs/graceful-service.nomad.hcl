# A web service that is updated, restarted, drained and stopped without losing a request.
#
#   nomad job run graceful-service.nomad.hcl
#   nomad job run -var driver=docker -var image=... graceful-service.nomad.hcl
#
# As it stands it serves the documentation of the machine with nginx and the
# driver lifecycle-raw_exec: "/" tells which instance answers, "/doc/" has the files.
#
# How a stop goes, whatever asked for it (update, restart, drain, job stop, preemption):
#
#   1. Nomad takes the service out of Consul.
#   2. prestop[0] makes sure of it, in case Nomad's own attempt is still being retried.
#   3. prestop[1] waits for drain_wait. The instance serves as before, while clients
#      that keep answers of Consul for a while (DNS TTL, caches) learn the news.
#   4. The process is told to finish (kill_signal): nginx closes its listener and
#      ends the requests that are running. busybox httpd cannot do this, so there a
#      third hook waits until no connection is left.
#   5. What still runs after kill_timeout is killed.
#
# Stock Nomad has shutdown_delay for step 3, but not on a restart of the task
# (nomad alloc restart, job restart, template change): there it kills at once.
#
# The times have to fit: kill_timeout counts from step 2, so it must be longer than
# drain_wait + longest_request (left empty, it is). The client cuts it to its
# max_kill_timeout, which is 30s unless its configuration says otherwise.

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "graceful-service"

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

variable "count" {
  description = "Number of instances. One is not enough: while it is replaced nobody answers."
  type        = number
  default     = 2

  validation {
    condition     = var.count >= 2 && var.count <= 100 && floor(var.count) == var.count
    error_message = "The count must be a whole number from 2 to 100: with one instance nobody answers while it is replaced."
  }
}

variable "driver" {
  description = "How instances run: \"raw_exec\" (nginx of the machine) or \"docker\" (an image). The lifecycle- driver of that name is used."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text that names what is deployed. Changing it replaces the instances one after the other."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._+-]+$", "") == ""
    error_message = "The release must consist of letters, digits, dots, dashes, underscores and plus signs."
  }
}

# --- what is served ---------------------------------------------------------------

variable "document_root" {
  description = "Directory of the client machine whose files are served under /doc/, as an absolute path. Everybody must be able to read it."
  type        = string
  default     = "/usr/share/doc"

  validation {
    condition     = substr(var.document_root, 0, 1) == "/" && regex_replace(var.document_root, "[ ;:{}\"']", "") == var.document_root
    error_message = "The document_root must be an absolute path without blanks, colons, semicolons, quotes or braces."
  }
}

variable "nginx" {
  description = "Path of nginx on the client machine (driver raw_exec)."
  type        = string
  default     = "/usr/sbin/nginx"

  validation {
    condition     = substr(var.nginx, 0, 1) == "/"
    error_message = "The path of nginx must be absolute."
  }
}

variable "nginx_locations" {
  description = "More configuration for nginx's server block, for example location blocks (driver raw_exec)."
  type        = string
  default     = ""
}

variable "image" {
  description = "Image with /bin/busybox and nothing else needed (driver docker). make demo builds the one that is named here; any image with busybox does."
  type        = string
  default     = "nomad-patterns/busybox:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

variable "files" {
  description = "More files to serve, as a map of path to content (driver docker). Those below cgi-bin/ are run as programs."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains([for path in keys(var.files) : path != "" && regex_replace(path, "^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", "") == ""], false)
    error_message = "The paths of files must be relative and stay below the served directory."
  }
}

# --- how it is found --------------------------------------------------------------

variable "service_name" {
  description = "Name of the service in Consul."
  type        = string
  default     = "graceful-service"

  validation {
    condition     = var.service_name != "" && regex_replace(var.service_name, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", "") == ""
    error_message = "The service_name must be 1 to 63 lower case letters, digits and dashes, as DNS wants it."
  }
}

variable "service_tags" {
  description = "Tags of the service in Consul."
  type        = list(string)
  default     = []
}

variable "check_path" {
  description = "Path that Consul asks for every second, and that has to answer before an instance counts as started."
  type        = string
  default     = "/"

  validation {
    condition     = substr(var.check_path, 0, 1) == "/"
    error_message = "The check_path must begin with a slash."
  }
}

variable "consul_addr" {
  description = "URL of the Consul agent on the client machine, as the Nomad client uses it. With ACLs the first prestop hook is refused and ignored: Nomad's own deregistration is enough then."
  type        = string
  default     = "http://127.0.0.1:8500"

  validation {
    condition     = var.consul_addr != "" && regex_replace(var.consul_addr, "^https?://[^/]+$", "") == ""
    error_message = "The consul_addr must be a URL such as http://127.0.0.1:8500, without a path."
  }
}

# --- how it ends ------------------------------------------------------------------

variable "drain_wait" {
  description = "How long an instance goes on serving after it has left Consul, in whole seconds (\"3s\"). Longer than any client keeps an answer of Consul."
  type        = string
  default     = "3s"

  validation {
    condition     = var.drain_wait != "" && regex_replace(var.drain_wait, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The drain_wait must be whole seconds, for example \"3s\"."
  }
}

variable "longest_request" {
  description = "How long a running request may take to end, in whole seconds (\"15s\")."
  type        = string
  default     = "15s"

  validation {
    condition     = var.longest_request != "" && regex_replace(var.longest_request, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The longest_request must be whole seconds, for example \"15s\"."
  }
}

variable "kill_timeout" {
  description = "When an instance is killed at last, in whole seconds (\"25s\") from the beginning of its stop. Empty: drain_wait + longest_request + 5s. More than the client's max_kill_timeout (30s by default) is cut to that."
  type        = string
  default     = ""

  validation {
    condition     = regex_replace(var.kill_timeout, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The kill_timeout must be whole seconds, for example \"25s\", or empty."
  }
}

variable "kill_signal" {
  description = "Signal that tells the process to finish. Empty: SIGQUIT for nginx (ends when the running requests have), SIGTERM for the image."
  type        = string
  default     = ""

  validation {
    condition     = regex_replace(var.kill_signal, "^SIG[A-Z0-9]+$", "") == ""
    error_message = "The kill_signal must be a name such as \"SIGQUIT\", or empty."
  }
}

# --- how it is rolled out ---------------------------------------------------------

variable "max_parallel" {
  description = "How many instances are replaced at the same time in an update or a drain."
  type        = number
  default     = 1

  validation {
    condition     = var.max_parallel >= 1
    error_message = "The max_parallel must be at least 1."
  }
}

variable "min_healthy_time" {
  description = "How long the check of a new instance has to pass before the next one is replaced."
  type        = string
  default     = "5s"

  validation {
    condition     = var.min_healthy_time != "" && regex_replace(var.min_healthy_time, "^[0-9]+(ms|s|m)$", "") == ""
    error_message = "The min_healthy_time must be a duration such as \"5s\"."
  }
}

variable "healthy_deadline" {
  description = "When a new instance that is not healthy makes the update fail."
  type        = string
  default     = "2m"

  validation {
    condition     = var.healthy_deadline != "" && regex_replace(var.healthy_deadline, "^[1-9][0-9]*(s|m)$", "") == ""
    error_message = "The healthy_deadline must be a duration such as \"2m\"."
  }
}

variable "auto_revert" {
  description = "Whether a failed update goes back to the last version that was healthy."
  type        = bool
  default     = true
}

variable "cpu" {
  description = "CPU share of an instance, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of an instance, in MB."
  type        = number
  default     = 64

  validation {
    condition     = var.memory >= 10
    error_message = "The memory must be at least 10 MB."
  }
}

locals {
  # Nomad's name for the service of a task: _nomad-task-<alloc>-<task>-<service>-<port>.
  service_id = "_nomad-task-$${NOMAD_ALLOC_ID}-web-${var.service_name}-http"
  deregister = "${var.consul_addr}/v1/agent/service/deregister/${local.service_id}"

  stop_seconds = parseint(trimsuffix(var.drain_wait, "s"), 10) + parseint(trimsuffix(var.longest_request, "s"), 10) + 5
  kill_timeout = var.kill_timeout != "" ? var.kill_timeout : "${local.stop_seconds}s"
}

job "graceful-service" {
  id          = var.job_name
  name        = var.job_name
  namespace   = var.namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool
  type        = "service"

  meta {
    release = var.release
  }

  update {
    max_parallel      = var.max_parallel
    health_check      = "checks"
    min_healthy_time  = var.min_healthy_time
    healthy_deadline  = var.healthy_deadline
    progress_deadline = "10m"
    auto_revert       = var.auto_revert
  }

  # The same care when a node is drained.
  migrate {
    max_parallel     = var.max_parallel
    health_check     = "checks"
    min_healthy_time = var.min_healthy_time
    healthy_deadline = var.healthy_deadline
  }

  group "web" {
    count = var.count

    network {
      port "http" {
        # The port inside the container. 0: the process listens at the port itself.
        to = var.driver == "docker" ? 8080 : 0
      }
    }

    # Rather on different machines, so that the loss of one is not that of the service.
    spread {
      attribute = "$${node.unique.id}"
    }

    # One of the two tasks below exists, as the variable "driver" says.
    dynamic "task" {
      for_each = var.driver == "raw_exec" ? ["web"] : []
      labels   = [task.value]

      content {
        driver       = "lifecycle-raw_exec"
        kill_signal  = var.kill_signal != "" ? var.kill_signal : "SIGQUIT"
        kill_timeout = local.kill_timeout

        config {
          command = var.nginx
          args    = ["-p", "$${NOMAD_TASK_DIR}", "-c", "$${NOMAD_TASK_DIR}/nginx.conf", "-e", "stderr"]

          lifecycle {
            # Nomad calls the task running, and registers it, when this has succeeded.
            ready {
              http {
                port = "http"
                path = var.check_path
              }
              interval = "200ms"
              timeout  = "30s"
            }
            prestop {
              http {
                url                = local.deregister
                method             = "PUT"
                valid_status_codes = [200, 404] # 404: Nomad was faster
              }
              timeout = "2s"
            }
            prestop {
              sleep = var.drain_wait
            }
          }
        }

        # Relative paths are below the task's directory (-p), so this runs as any user
        # and several instances share a machine.
        template {
          destination   = "local/nginx.conf"
          change_mode   = "signal"
          change_signal = "SIGHUP" # nginx reads it again without losing a request
          data          = <<-NGINX
            daemon off;
            pid nginx.pid;
            error_log stderr;
            worker_processes 1;
            worker_shutdown_timeout ${var.longest_request};
            events {
              worker_connections 1024;
            }
            http {
              access_log off;
              sendfile on;
              default_type text/plain;
              types {
                text/html html htm;
                text/css css;
                application/gzip gz;
              }
              client_body_temp_path tmp-body;
              proxy_temp_path tmp-proxy;
              fastcgi_temp_path tmp-fastcgi;
              uwsgi_temp_path tmp-uwsgi;
              scgi_temp_path tmp-scgi;
              server {
                listen {{ env "NOMAD_ADDR_http" }};
                location = / {
                  default_type text/html;
                  return 200 "<h1>{{ env "NOMAD_JOB_NAME" }}</h1>release ${var.release}, instance {{ env "NOMAD_ALLOC_ID" }}, <a href=/doc/>documents</a>\n";
                }
                location /doc/ {
                  alias ${var.document_root}/;
                  autoindex on;
                }
                ${var.nginx_locations}
              }
            }
          NGINX
        }

        # A service of the task, not of the group: on a restart Nomad takes a service of
        # the group out of Consul, but puts it back before the task has stopped.
        service {
          name     = var.service_name
          tags     = var.service_tags
          port     = "http"
          provider = "consul"

          check {
            type     = "http"
            path     = var.check_path
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
      for_each = var.driver == "docker" ? ["web"] : []
      labels   = [task.value]

      content {
        driver       = "lifecycle-docker"
        kill_signal  = var.kill_signal != "" ? var.kill_signal : "SIGTERM"
        kill_timeout = local.kill_timeout

        config {
          image   = var.image
          command = "/bin/busybox"
          args    = ["httpd", "-f", "-p", "8080", "-h", "/local/srv"]
          ports   = ["http"]
          volumes = ["${var.document_root}:/local/srv/doc:ro"]

          # As process 1 busybox httpd would not hear SIGTERM. With an init it does, and
          # ends at once: its running requests with it, hence the last hook below.
          init = true

          lifecycle {
            ready {
              http {
                port = "http"
                path = var.check_path
              }
              interval = "200ms"
              timeout  = "30s"
            }
            prestop {
              http {
                url                = local.deregister
                method             = "PUT"
                valid_status_codes = [200, 404]
              }
              timeout = "2s"
            }
            prestop {
              sleep = var.drain_wait
            }
            # Until no request is running any more.
            prestop {
              exec {
                command = ["/bin/busybox", "sh", "-c", "while busybox netstat -tn | busybox grep -q ESTABLISHED; do busybox sleep 0.3; done"]
              }
              timeout = var.longest_request
            }
          }
        }

        template {
          destination = "local/srv/index.html"
          change_mode = "noop"
          data        = <<-HTML
            <h1>{{ env "NOMAD_JOB_NAME" }}</h1>
            release ${var.release}, instance {{ env "NOMAD_ALLOC_ID" }}, documents are below /doc/
          HTML
        }

        dynamic "template" {
          for_each = var.files

          content {
            destination = "local/srv/${template.key}"
            change_mode = "noop"
            perms       = "755"
            data        = template.value
          }
        }

        service {
          name     = var.service_name
          tags     = var.service_tags
          port     = "http"
          provider = "consul"

          check {
            type     = "http"
            path     = var.check_path
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
