from .pages import domain_page as domain_page
