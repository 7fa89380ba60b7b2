# A worker whose state outlives it: wherever Nomad starts it next, it goes on where it was.
#
#   nomad job run stateful-worker.nomad.hcl
#   nomad job run -var driver=docker -var image=... -var 'command=["/bin/train"]' -var 'save=["/bin/train", "-save"]' stateful-worker.nomad.hcl
#
# How a stop goes, whatever asked for it (update, restart, drain, preemption, alloc stop):
#
#   1. The plugin asks Nomad why, and runs "save" in the running task. It writes the state
#      to the file $LIFECYCLE_CHECKPOINT_FILE, and that is all it has to do.
#   2. The plugin stores the file, compressed and with a checksum, in "store".
#   3. The process is told to end (SIGTERM), and killed at kill_timeout.
#   4. The next start, on whatever machine, finds the state in the same file before its
#      process runs. A replacement that starts too early waits for the save of the one
#      before, up to a minute. No file: a cold start.
#
# How much work is done twice:
#
#   stopped for any reason above        none (the sample pauses while it is saved)
#   crashed, killed, machine lost       what came after the last regular save, see "interval"
#   job stopped, made smaller, purged   all: a new run begins with nothing. docs/lifecycle.md
#                                       says how to bring the old state back
#
# Each worker has a state of its own, by its index in the group: worker 3 takes up what worker 3
# has left. What happened is in "nomad alloc status": "stopping: drained", "checkpoint 2/17 saved".
#
# As it stands it adds up numbers in a shell script, one a step: after step 100 the sum is 5050.

variable "job_name" {
  description = "Name of the job. Also part of its allocations' names."
  type        = string
  default     = "stateful-worker"

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
  description = "Datacenters in which workers may be placed. [\"*\"] is all of them."
  type        = list(string)
  default     = ["*"]

  validation {
    condition     = length(var.datacenters) > 0
    error_message = "The datacenters must name at least one, or be [\"*\"]."
  }
}

variable "node_pool" {
  description = "Node pool in which workers are placed."
  type        = string
  default     = "default"
}

variable "count" {
  description = "Number of workers, each with a state of its own."
  type        = number
  default     = 1

  validation {
    condition     = var.count >= 1 && var.count <= 1000 && floor(var.count) == var.count
    error_message = "The count must be a whole number from 1 to 1000."
  }
}

variable "priority" {
  description = "Priority of the job. Where the operator has turned preemption on, jobs whose priority is higher by 10 or more may take its place."
  type        = number
  default     = 50

  validation {
    condition     = var.priority >= 1 && var.priority <= 100 && floor(var.priority) == var.priority
    error_message = "The priority must be a whole number from 1 to 100."
  }
}

variable "driver" {
  description = "How workers run: \"raw_exec\" (programs of the machine) or \"docker\" (an image). The lifecycle- driver of that name is used."
  type        = string
  default     = "raw_exec"

  validation {
    condition     = contains(["raw_exec", "docker"], var.driver)
    error_message = "The driver must be \"raw_exec\" or \"docker\"."
  }
}

variable "release" {
  description = "Any text that names what is deployed. Changing it replaces the workers one after the other."
  type        = string
  default     = "1"

  validation {
    condition     = var.release != "" && regex_replace(var.release, "^[A-Za-z0-9._+-]+$", "") == ""
    error_message = "The release must consist of letters, digits, dots, dashes, underscores and plus signs."
  }
}

# --- the work ---------------------------------------------------------------------

variable "command" {
  description = "Program of the work and its arguments. It reads its state from the file $LIFECYCLE_CHECKPOINT_FILE when it starts, if there is one. Empty: the sample."
  type        = list(string)
  default     = []
}

variable "save" {
  description = "Program, and its arguments, that writes the state to the file $LIFECYCLE_CHECKPOINT_FILE while the work runs. Writing none says that there is nothing to save. A command of yours needs one of yours."
  type        = list(string)
  default     = []
}

variable "step" {
  description = "How long a step of the sample takes, in seconds (\"0.5\")."
  type        = string
  default     = "0.5"

  validation {
    condition     = var.step != "" && regex_replace(var.step, "^[0-9](\\.[0-9]{1,2})?$", "") == ""
    error_message = "The step must be seconds below 10, for example \"0.5\"."
  }
}

variable "image" {
  description = "Image of the work (driver docker). The sample needs /bin/busybox and nothing else; make images builds the one that is named here."
  type        = string
  default     = "nomad-patterns/busybox:1"

  validation {
    condition     = var.image != ""
    error_message = "The image must not be empty."
  }
}

# --- its state --------------------------------------------------------------------

variable "store" {
  description = "Where states lie: \"consul\" (up to 512 KiB compressed), or the name of a blob store of the client's plugin configuration."
  type        = string
  default     = "consul"

  validation {
    condition     = var.store != "" && regex_replace(var.store, "^[A-Za-z0-9._-]+$", "") == ""
    error_message = "The store must be a name, and not a URL: the operator gives that in the plugin's configuration."
  }
}

variable "interval" {
  description = "How often the state is saved while the work runs, in whole seconds (\"30s\"). So much work is lost at most when the worker crashes."
  type        = string
  default     = "30s"

  validation {
    condition     = var.interval != "" && regex_replace(var.interval, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The interval must be whole seconds, for example \"30s\"."
  }
}

variable "max_size" {
  description = "Size that a state may have (\"256KiB\"), up to 64MiB. A larger one is not saved, and the stop says so."
  type        = string
  default     = "256KiB"

  validation {
    condition     = var.max_size != "" && regex_replace(var.max_size, "^[1-9][0-9]{0,7}[KM]iB$", "") == ""
    error_message = "The max_size must be a size such as \"256KiB\" or \"4MiB\"."
  }
}

variable "on_restore_failure" {
  description = "What a start does whose state is unreadable or cannot be fetched: \"fail\" (it is tried again) or \"cold\" (it goes on without, or with an older one)."
  type        = string
  default     = "fail"

  validation {
    condition     = contains(["fail", "cold"], var.on_restore_failure)
    error_message = "The on_restore_failure must be \"fail\" or \"cold\"."
  }
}

variable "kill_timeout" {
  description = "When a worker that has to end is killed at last, in whole seconds (\"25s\"): the save has to fit in. More than the client's max_kill_timeout (30s by default) is cut to that."
  type        = string
  default     = "25s"

  validation {
    condition     = var.kill_timeout != "" && regex_replace(var.kill_timeout, "^[1-9][0-9]{0,3}s$", "") == ""
    error_message = "The kill_timeout must be whole seconds, for example \"25s\"."
  }
}

variable "cpu" {
  description = "CPU share of a worker, in MHz."
  type        = number
  default     = 100

  validation {
    condition     = var.cpu >= 1
    error_message = "The cpu must be at least 1 MHz."
  }
}

variable "memory" {
  description = "Memory of a worker, in MB."
  type        = number
  default     = 64

  validation {
    condition     = var.memory >= 10
    error_message = "The memory must be at least 10 MB."
  }
}

locals {
  docker = var.driver == "docker"

  shell   = local.docker ? ["/bin/busybox", "sh"] : ["/bin/sh"]
  command = length(var.command) > 0 ? var.command : concat(local.shell, ["$${NOMAD_TASK_DIR}/work.sh"])
  save    = length(var.command) > 0 ? var.save : concat(local.shell, ["$${NOMAD_TASK_DIR}/save.sh"])
}

job "stateful-worker" {
  id          = var.job_name
  name        = var.job_name
  namespace   = var.namespace
  datacenters = var.datacenters
  node_pool   = var.node_pool
  priority    = var.priority
  type        = "service"

  meta {
    release = var.release
  }

  update {
    max_parallel     = 1
    health_check     = "task_states"
    min_healthy_time = "3s"
    healthy_deadline = "2m"
    auto_revert      = true
  }

  migrate {
    max_parallel     = 1
    health_check     = "task_states"
    min_healthy_time = "3s"
    healthy_deadline = "2m"
  }

  group "worker" {
    count = var.count

    # Rather on different machines, so that the loss of one stops few.
    spread {
      attribute = "$${node.unique.id}"
    }

    # First in place, where the files of the task still are, and then elsewhere, for ever.
    restart {
      attempts = 3
      interval = "5m"
      delay    = "2s"
      mode     = "fail"
    }

    reschedule {
      delay          = "5s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    task "work" {
      driver       = "lifecycle-${var.driver}"
      kill_signal  = "SIGTERM"
      kill_timeout = var.kill_timeout

      # One of the two, as the variable "driver" says.
      dynamic "config" {
        for_each = local.docker ? [] : [local.command]

        content {
          command = config.value[0]
          args    = slice(config.value, 1, length(config.value))

          lifecycle {
            checkpoint {
              save {
                exec {
                  command = local.save
                }
                timeout = "10s"
              }
              store              = var.store
              interval           = var.interval
              max_size           = var.max_size
              on_restore_failure = var.on_restore_failure
            }
          }
        }
      }

      dynamic "config" {
        for_each = local.docker ? [local.command] : []

        content {
          image      = var.image
          entrypoint = [config.value[0]]
          args       = slice(config.value, 1, length(config.value))

          lifecycle {
            checkpoint {
              save {
                exec {
                  command = local.save
                }
                timeout = "10s"
              }
              store              = var.store
              interval           = var.interval
              max_size           = var.max_size
              on_restore_failure = var.on_restore_failure
            }
          }
        }
      }

      # The sample. It runs in any POSIX shell, and with busybox alone.
      template {
        destination = "local/work.sh"
        change_mode = "noop"
        perms       = "755"
        data        = <<-SHELL
          #!/bin/sh
          cd "$NOMAD_TASK_DIR" || exit 1
          rm -f pause paused state # of the last run, if this is a restart in place
          step=0
          sum=0
          if [ -e "$LIFECYCLE_CHECKPOINT_FILE" ]; then
            read -r step sum <"$LIFECYCLE_CHECKPOINT_FILE" || exit 1
          fi
          echo "release ${var.release}, going on after step $step with $sum"
          trap 'exit 0' TERM
          while :; do
            # Whoever is about to be stopped does nothing more that would not be saved.
            if [ -e pause ]; then
              [ -e paused ] || echo "pausing after step $step with $sum"
              : >paused
              sleep 0.2
              continue
            fi
            step=$((step + 1))
            sum=$((sum + step))
            # By one rename, so that a save finds this state or the one before.
            echo "$step $sum" >state.new
            mv state.new state
            sleep ${var.step} &
            wait $! # a signal is heard at once
          done
        SHELL
      }

      template {
        destination = "local/save.sh"
        change_mode = "noop"
        perms       = "755"
        data        = <<-SHELL
          #!/bin/sh
          cd "$NOMAD_TASK_DIR" || exit 1
          # The event has a reason if this is the save of a stop, and not a regular one.
          if grep -q '"reason"' "$LIFECYCLE_EVENT_FILE"; then
            : >pause
            until [ -e paused ]; do sleep 0.1; done
          fi
          [ ! -e state ] || cp state "$LIFECYCLE_CHECKPOINT_FILE"
        SHELL
      }

      resources {
        cpu    = var.cpu
        memory = var.memory
      }
    }
  }
}
