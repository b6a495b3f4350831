/* A module of the server. A session that has loaded it stops itself (SIGSTOP) in each of its commits, when others see what it has done
 * and none of its invalidations has been sent: no lock and no wait reaches that moment. */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"

#include <signal.h>

PG_MODULE_MAGIC;

static void stop(XactEvent event, void *argument) {
    if (event == XACT_EVENT_COMMIT)
        raise(SIGSTOP);
}

void _PG_init(void);

void _PG_init(void) {
    RegisterXactCallback(stop, NULL);
}
