"""Which of the training processes this is; without torch.distributed it is the only one."""


def rank_and_size() -> tuple[int, int]:
    """(rank, how many)."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def together() -> None:
    """Wait until every process is here."""
    from torch import distributed

    if rank_and_size()[1] > 1:
        distributed.barrier()
